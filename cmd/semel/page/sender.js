// The client's half of the bargain: the same request with the same key, again
// and again, until there is an answer. Both accounts get the same loop; what
// differs is what the other side does with the key.

export const maxTries = 8;

const patience = 8000; // milliseconds for one try
const firstPause = 120;
const longestPause = 2000;

export const sides = {
  protected: (account, key) => `/bank/accounts/${encodeURIComponent(account)}/withdrawals/${encodeURIComponent(key)}`,
  naive: (account, key) => `/naive/accounts/${encodeURIComponent(account)}/withdrawals/${encodeURIComponent(key)}`,
};

/**
 * Sends until an answer comes or the tries are used up. onTry is called with
 * {number, what, words} when a try begins ("sending") and when it ends
 * ("done", "replayed", "rejected", "lost", "again"). Resolves to the last
 * try's end with the answer's status, headers and body; "unknown" if none came.
 */
export async function send({ url, cents, onTry }) {
  const body = `{"cents":${cents}}`;
  for (let number = 1; ; number++) {
    onTry({ number, what: "sending", words: "under way" });
    const end = await once(url, body);
    onTry({ number, ...end });
    if (end.what !== "lost" && end.what !== "again") return end;
    if (number === maxTries) return { ...end, what: "unknown" };
    await pause(number, end.retryAfter);
  }
}

async function once(url, body) {
  let response, text;
  try {
    response = await fetch(url, {
      method: "PUT",
      headers: { Authorization: "Bearer visitor", "Content-Type": "application/json" },
      body,
      cache: "no-store",
      signal: AbortSignal.timeout(patience),
    });
    text = await response.text();
  } catch (err) {
    return { what: "lost", words: err.name === "TimeoutError" ? "no answer in time" : "connection lost" };
  }
  return { ...judge(response, text), status: response.status, text, retryAfter: response.headers.get("Retry-After") };
}

function judge(response, text) {
  const { status } = response;
  const replayed = response.headers.get("Idempotent-Replayed") === "true";
  if (status === 202) return { what: "again", words: "accepted, still running" };
  if (status === 429 || status >= 500) return { what: "again", words: `${status}, try again` };
  if (status >= 400) return { what: "rejected", words: `${status} ${reason(text)}`, replayed };
  if (replayed) return { what: "replayed", words: `${status}, stored answer`, replayed };
  return { what: "done", words: `${status}, done`, replayed };
}

function reason(text) {
  try {
    const p = JSON.parse(text);
    return p.detail || p.title || "refused";
  } catch {
    return text.trim().slice(0, 120) || "refused";
  }
}

// Full jitter: anywhere between nothing and the doubled bound, so that many
// clients who failed together don't come back together.
function pause(number, retryAfter) {
  const bound = Math.min(longestPause, firstPause * 2 ** (number - 1));
  const asked = Math.min(longestPause, 1000 * (Number.parseInt(retryAfter ?? "", 10) || 0));
  return new Promise((resolve) => setTimeout(resolve, asked + Math.random() * bound));
}
