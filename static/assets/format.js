// Amounts, sizes and times as text. Amounts are whole numbers of minor units: nothing here divides money.

// Must agree with the server's table; a test of the server compares them.
const NO_DIGITS = "bif clp djf gnf jpy kmf krw mga pyg rwf vnd vuv xaf xof xpf".split(" ");
const THREE_DIGITS = "bhd jod kwd omr tnd".split(" ");
const NARROW_SPACE = "\u202f";

export function digits(currency) {
  if (NO_DIGITS.includes(currency)) return 0;
  return THREE_DIGITS.includes(currency) ? 3 : 2;
}

/** "12.00 USD", "−1 234.50 EUR", "500 JPY". */
export function money(minor, currency) {
  if (!Number.isSafeInteger(minor)) return "unknown amount";
  const places = digits(currency);
  const text = String(Math.abs(minor)).padStart(places + 1, "0");
  const whole = text.slice(0, text.length - places).replace(/\B(?=(\d{3})+$)/g, NARROW_SPACE);
  const sign = minor < 0 ? "\u2212" : "";
  return `${sign}${whole}${places ? "." + text.slice(-places) : ""} ${currency.toUpperCase()}`;
}

/** Minor units of "12", "12.5" or "12,50"; null if it is not an amount in that currency. */
export function parseMoney(text, currency) {
  const places = digits(currency);
  const parts = /^(\d{1,9})(?:[.,](\d{1,3}))?$/.exec(text.trim());
  if (!parts || (parts[2] ?? "").length > places) return null;
  const minor = Number(parts[1] + (parts[2] ?? "").padEnd(places, "0"));
  return minor > 0 && Number.isSafeInteger(minor) ? minor : null;
}

/** "1.4 MiB". */
export function bytes(count) {
  if (!Number.isFinite(count)) return "unknown size";
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let unit = 0;
  while (count >= 1024 && unit < units.length - 1) { count /= 1024; unit += 1; }
  return `${unit === 0 || count >= 100 ? Math.round(count) : count.toFixed(1)} ${units[unit]}`;
}

export function milliseconds(value) {
  if (value === null || value === undefined) return "no data";
  if (value >= 1000) return `${(value / 1000).toFixed(2)} s`;
  return value >= 10 ? `${Math.round(value)} ms` : `${Number(value.toPrecision(2))} ms`;
}

/** "99.5 %"; never rounded up to 100. */
export function percent(ratio) {
  if (ratio === null || ratio === undefined) return "no data";
  return `${Number((Math.floor(ratio * 100000) / 1000).toFixed(3))} %`;
}

/** "3 d 4 h", "20 h", "12 min", "8 s": the second unit only where the first is small. */
export function duration(seconds) {
  const s = Math.max(0, Math.round(seconds));
  if (s < 60) return `${s} s`;
  if (s < 3600) return `${Math.floor(s / 60)} min`;
  const two = (n, unit, rest, smaller) => (rest && n < 10 ? `${n} ${unit} ${rest} ${smaller}` : `${n} ${unit}`);
  if (s < 86400) return two(Math.floor(s / 3600), "h", Math.floor((s % 3600) / 60), "min");
  return two(Math.floor(s / 86400), "d", Math.floor((s % 86400) / 3600), "h");
}

export function relative(date, now = Date.now()) {
  const seconds = (date.getTime() - now) / 1000;
  if (Math.abs(seconds) < 5) return "now";
  return seconds < 0 ? `${duration(-seconds)} ago` : `in ${duration(seconds)}`;
}

/** "2025-10-20 17:00:00 UTC". */
export function utc(date) {
  return `${date.toISOString().slice(0, 19).replace("T", " ")} UTC`;
}

/** RFC 3339 text or Unix seconds to a Date; null for anything else. */
export function toDate(value) {
  const date = typeof value === "number" ? new Date(value * 1000) : new Date(value ?? NaN);
  return Number.isNaN(date.getTime()) ? null : date;
}

/** "payout_recon" as "Payout recon". */
export function words(name) {
  const text = String(name ?? "").replaceAll("_", " ").replace(/\b(api|cpu|slo)\b/g, (short) => short.toUpperCase());
  return text.charAt(0).toUpperCase() + text.slice(1);
}
