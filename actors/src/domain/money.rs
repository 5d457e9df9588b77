//! Stand-in for the money table until the real one is merged: exponents and display of minor units. Pure.

/// Digits after the decimal point of a currency's minor unit.
pub fn exponent(currency: &str) -> u32 {
    match currency {
        "bif" | "clp" | "djf" | "gnf" | "jpy" | "kmf" | "krw" | "mga" | "pyg" | "rwf" | "vnd" | "vuv" | "xaf" | "xof" | "xpf" => 0,
        "bhd" | "jod" | "kwd" | "omr" | "tnd" => 3,
        _ => 2,
    }
}

/// Minor units as a decimal string: `9900, "usd"` is `99.00`.
pub fn format_minor(amount: i64, currency: &str) -> String {
    let digits = exponent(currency) as usize;
    let sign = if amount < 0 { "-" } else { "" };
    let text = format!("{:0>width$}", amount.unsigned_abs(), width = digits + 1);
    let (whole, part) = text.split_at(text.len() - digits);
    if digits == 0 { format!("{sign}{whole}") } else { format!("{sign}{whole}.{part}") }
}

/// Minor units for a person: `99.00 USD`.
pub fn display(amount: i64, currency: &str) -> String {
    format!("{} {}", format_minor(amount, currency), currency.to_uppercase())
}
