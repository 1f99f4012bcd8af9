// An intention is one withdrawal that the visitor means to make. Its key is
// made once and stored before the first send; every repeat of the same
// intention, by a second click, by the retry loop or after a reload, carries
// the same key. It ends when its outcome has been shown.

const place = "semel.intention";

export function begin(cents) {
  const intention = { key: crypto.randomUUID(), cents: cents.toString() };
  keep(intention);
  return intention;
}

export function keep(intention) {
  try {
    sessionStorage.setItem(place, JSON.stringify({ key: intention.key, cents: intention.cents }));
  } catch {
    // Without storage a reload forgets the key. The tries of this page still share it.
  }
}

/** The intention whose outcome was not shown before the page went away, or null. */
export function unfinished() {
  try {
    const v = JSON.parse(sessionStorage.getItem(place));
    return v && /^[\x21-\x7e]{1,255}$/.test(v.key) && /^[1-9]\d*$/.test(v.cents) ? { key: v.key, cents: v.cents } : null;
  } catch {
    return null;
  }
}

export function end() {
  try {
    sessionStorage.removeItem(place);
  } catch {
    // Nothing was stored either.
  }
}
