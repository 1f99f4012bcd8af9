// Money is a BigInt of cents: int64 on the other side, never a float.

const largest = 2n ** 63n - 1n;

/** Reads "25", "25.5" or "25,50" as cents; throws an Error that says what to write. */
export function parse(text) {
  const t = text.trim();
  const m = /^(\d+)(?:[.,](\d{1,2}))?$/.exec(t);
  if (!m) throw new Error("Write an amount such as 25 or 25.00.");
  const cents = BigInt(m[1]) * 100n + BigInt((m[2] ?? "").padEnd(2, "0"));
  if (cents === 0n) throw new Error("The amount must be more than 0.00.");
  if (cents > largest) throw new Error("That is more than an account can hold.");
  return cents;
}

/** Cents as they come in JSON: a number, or a string beyond 2^53. */
export function cents(v) {
  if (v === undefined || v === null) return 0n;
  return BigInt(v);
}

export function format(v) {
  const c = cents(v);
  const abs = c < 0n ? -c : c;
  const whole = (abs / 100n).toString().replace(/\B(?=(\d{3})+$)/g, ",");
  const rest = (abs % 100n).toString().padStart(2, "0");
  return `${c < 0n ? "\u2212" : ""}${whole}.${rest}`;
}
