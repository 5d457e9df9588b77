//! Money as integers in minor units, and the table that says how many digits a currency's minor unit has. Called by
//! everything that shows, reads or checks an amount. Pure; never a float, never a division by a fixed 100.
//!
//! The exponents are the provider's, which differ from ISO 4217 for ISK and UGX: both have no cents in practice, but the
//! API still counts in hundredths (5 ISK = 500) and asks for whole units.

/// Currencies whose minor unit is the unit itself.
const ZERO: [&str; 15] = ["bif", "clp", "djf", "gnf", "jpy", "kmf", "krw", "mga", "pyg", "rwf", "vnd", "vuv", "xaf", "xof", "xpf"];
/// Currencies with thousandths.
const THREE: [&str; 5] = ["bhd", "jod", "kwd", "omr", "tnd"];
/// Counted in hundredths by the API, although only whole units exist.
const WHOLE_UNITS: [&str; 2] = ["isk", "ugx"];
const TWO: [&str; 114] = [
    "aed", "afn", "all", "amd", "ang", "aoa", "ars", "aud", "awg", "azn", "bam", "bbd", "bdt", "bgn", "bmd", "bnd", "bob", "brl", "bsd",
    "btn", "bwp", "byn", "bzd", "cad", "cdf", "chf", "cny", "cop", "crc", "cve", "czk", "dkk", "dop", "dzd", "egp", "etb", "eur", "fjd",
    "fkp", "gbp", "gel", "gip", "gmd", "gtq", "gyd", "hkd", "hnl", "htg", "huf", "idr", "ils", "inr", "jmd", "kes", "kgs", "khr", "kyd",
    "kzt", "lak", "lbp", "lkr", "lrd", "lsl", "mad", "mdl", "mkd", "mmk", "mnt", "mop", "mur", "mvr", "mwk", "mxn", "myr", "mzn", "nad",
    "ngn", "nio", "nok", "npr", "nzd", "pab", "pen", "pgk", "php", "pkr", "pln", "qar", "ron", "rsd", "rub", "sar", "sbd", "scr", "sek",
    "sgd", "shp", "sle", "sos", "srd", "std", "szl", "thb", "tjs", "top", "try", "ttd", "twd", "tzs", "uah", "usd", "uyu", "uzs", "zar",
];
/// Amounts of this size and more are refused by the provider.
pub const MAXIMUM: i64 = 99_999_999;

/// Digits of the minor unit, for a lowercase currency code. Unknown currencies count as two.
pub fn exponent(currency: &str) -> u32 {
    if ZERO.contains(&currency) {
        0
    } else if THREE.contains(&currency) {
        3
    } else {
        2
    }
}

/// Whether this is a currency code as the provider writes it: three lowercase letters, known.
pub fn is_currency(currency: &str) -> bool {
    TWO.contains(&currency) || ZERO.contains(&currency) || THREE.contains(&currency) || WHOLE_UNITS.contains(&currency)
}

/// The multiple that an amount must be of: 100 where only whole units exist, 10 with thousandths, else 1.
pub fn step(currency: &str) -> i64 {
    if WHOLE_UNITS.contains(&currency) {
        100
    } else if THREE.contains(&currency) {
        10
    } else {
        1
    }
}

/// The smallest amount that can be charged, in minor units; 1 where the provider publishes none.
pub fn minimum_charge(currency: &str) -> i64 {
    match currency {
        "usd" | "aud" | "brl" | "cad" | "chf" | "eur" | "inr" | "jpy" | "nzd" | "sgd" => 50,
        "gbp" => 30,
        "bgn" => 100,
        "aed" | "myr" | "pln" | "ron" => 200,
        "dkk" => 250,
        "nok" | "sek" => 300,
        "hkd" => 400,
        "mxn" | "thb" => 1000,
        "czk" => 1500,
        "huf" => 17500,
        _ => 1,
    }
}

/// "99.00", "-0.50", "500" (yen): digits only, a point, no grouping.
pub fn format_minor(amount: i64, currency: &str) -> String {
    let digits = exponent(currency);
    let sign = if amount < 0 { "-" } else { "" };
    let amount = amount.unsigned_abs();
    let unit = 10_u64.pow(digits);
    if digits == 0 {
        format!("{sign}{amount}")
    } else {
        format!("{sign}{}.{:0width$}", amount / unit, amount % unit, width = digits as usize)
    }
}

/// "99.00 USD".
pub fn display(amount: i64, currency: &str) -> String {
    format!("{} {}", format_minor(amount, currency), currency.to_ascii_uppercase())
}

/// Reads "99", "99.5" or "-99.50" into minor units. The error is a sentence that says what is wrong: signs other than a
/// leading minus, exponents, grouping, too many decimals and amounts beyond 64 bits are all refused, never rounded.
pub fn parse_decimal(text: &str, currency: &str) -> Result<i64, String> {
    let digits = exponent(currency) as usize;
    let wrong = |what: &str| Err(format!("'{text}' is not an amount in {}: {what}", currency.to_ascii_uppercase()));
    let (negative, unsigned) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    let (whole, fraction) = match unsigned.split_once('.') {
        Some((_, "")) => return wrong("there are no digits after the point"),
        Some((whole, fraction)) => (whole, fraction),
        None => (unsigned, ""),
    };
    if whole.is_empty() {
        return wrong("there are no digits before the point");
    }
    if !whole.bytes().chain(fraction.bytes()).all(|b| b.is_ascii_digit()) {
        return wrong("only digits, one point and a leading minus are allowed");
    }
    if fraction.len() > digits {
        return wrong(&match digits {
            0 => "this currency has no decimals".to_owned(),
            n => format!("at most {n} decimals"),
        });
    }
    // Parsed with its sign, so that the smallest 64-bit number has a text too.
    let number = format!("{}{whole}{fraction:0<digits$}", if negative { "-" } else { "" });
    number.parse().or_else(|_| wrong("it is too large"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn amounts_are_written_with_their_currencys_digits() {
        for (amount, currency, text) in [
            (9900, "usd", "99.00"),
            (-50, "usd", "-0.50"),
            (5, "eur", "0.05"),
            (0, "usd", "0.00"),
            (500, "jpy", "500"),
            (-1, "jpy", "-1"),
            (1230, "kwd", "1.230"),
            (500, "isk", "5.00"),
            (i64::MIN, "usd", "-92233720368547758.08"),
        ] {
            assert_eq!(format_minor(amount, currency), text);
            assert_eq!(parse_decimal(text, currency), Ok(amount), "{text} {currency}");
        }
        assert_eq!(display(9900, "usd"), "99.00 USD");
    }

    #[test]
    fn decimals_are_read_exactly_or_refused_with_a_reason() {
        for (text, currency, amount) in
            [("99", "usd", 9900), ("99.5", "usd", 9950), ("0.07", "usd", 7), ("007", "jpy", 7), ("-0.5", "gbp", -50)]
        {
            assert_eq!(parse_decimal(text, currency), Ok(amount));
        }
        for (text, currency, why) in [
            ("", "usd", "before the point"),
            ("-", "usd", "before the point"),
            (".5", "usd", "before the point"),
            ("5.", "usd", "after the point"),
            ("+5", "usd", "only digits"),
            ("1e3", "usd", "only digits"),
            ("1,000", "usd", "only digits"),
            ("1.2.3", "usd", "only digits"),
            (" 1", "usd", "only digits"),
            ("NaN", "usd", "only digits"),
            ("٣", "usd", "only digits"),
            ("1.005", "usd", "at most 2"),
            ("1.0", "jpy", "no decimals"),
            ("92233720368547758.08", "usd", "too large"),
        ] {
            let error = parse_decimal(text, currency).unwrap_err();
            assert!(error.contains(why), "{text}: {error}");
        }
    }

    #[test]
    fn the_tables_do_not_overlap_and_hold_currency_codes_only() {
        let all: Vec<_> = TWO.iter().chain(&ZERO).chain(&THREE).chain(&WHOLE_UNITS).collect();
        let unique: std::collections::HashSet<_> = all.iter().collect();
        assert_eq!(unique.len(), all.len());
        assert!(all.iter().all(|c| c.len() == 3 && c.bytes().all(|b| b.is_ascii_lowercase()) && is_currency(c)));
        assert!(!is_currency("USD") && !is_currency("xxx") && !is_currency(""));
        assert_eq!((step("isk"), step("kwd"), step("usd")), (100, 10, 1));
        assert!(all.iter().all(|c| minimum_charge(c) >= 1));
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back(amount: i64, i in 0..4_usize) {
            let currency = ["usd", "jpy", "kwd", "isk"][i];
            prop_assert_eq!(parse_decimal(&format_minor(amount, currency), currency), Ok(amount));
        }

        #[test]
        fn no_text_makes_it_panic(text in ".{0,30}") {
            let _ = parse_decimal(&text, "usd");
        }
    }
}
