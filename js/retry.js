// When a failed try is followed by another.
import { SendError, Tally, passes } from "./errors.js";

/**
 * Reads both forms of Retry-After, in milliseconds. A date is relative to now,
 * which should be the server's: the difference of two readings of one clock is
 * right even where that clock is wrong.
 */
export function parseRetryAfter(value, now = Date.now()) {
  if (!value) return 0;
  if (/^\d+$/.test(value)) return Math.min(Number(value) * 1000, Number.MAX_SAFE_INTEGER);
  const at = /^[A-Z][a-z]{2}/.test(value) ? Date.parse(value) : Number.NaN;
  return Number.isNaN(at) ? 0 : Math.max(0, at - now);
}

/**
 * Full jitter: anywhere between nothing and a bound that doubles, so that
 * clients that failed together do not come back together.
 */
export function pauseAfter(number, { first = 250, most = 30_000, fixed = false } = {}) {
  return fixed ? first : Math.random() * Math.min(most, first * 2 ** Math.min(number - 1, 40));
}

/**
 * Bounds the retries of all clients that share it, so that a chronic fault
 * does not multiply the load on a server that is in trouble already. Requests
 * earn retries, and so does time.
 */
export class Budget {
  constructor({ ratio = 0.1, floor = 10, saved = 100 } = {}) {
    Object.assign(this, { ratio, floor, saved, tokens: saved, last: Date.now() });
  }

  earn() {
    this.#count();
    this.tokens = Math.min(this.saved, this.tokens + this.ratio);
  }

  spend() {
    this.#count();
    if (this.tokens < 1) return false;
    this.tokens--;
    return true;
  }

  #count() {
    const now = Date.now();
    this.tokens = Math.min(this.saved, this.tokens + (Math.max(0, now - this.last) / 1000) * this.floor);
    this.last = now;
  }
}

export const sharedBudget = new Budget();

/** Failures in a row, and what follows them. */
export class Series {
  tally = new Tally();

  constructor({ tries = Infinity, wait, policies = {}, longest = 3_600_000 }) {
    Object.assign(this, { tries, wait, policies, longest });
  }

  /** Counts a failure; returns how long to wait before the next try, or undefined if there is to be none. */
  add(failed) {
    this.tally.add(failed);
    const policy = { ...this.wait, ...this.policies[failed.class] };
    const opened = this.policies[failed.class] && policy.tries !== 1;
    if (!passes(failed.class) && !(opened && !["failed", "canceled", "deadline"].includes(failed.class))) return undefined;
    if (this.tally.tries >= this.tries || this.tally.count(failed.class) >= (policy.tries ?? Infinity)) return undefined;
    return pauseAfter(this.tally.tries, policy) + Math.min(failed.retryAfter, this.longest);
  }
}

/** Waits; rejects with the signal's reason if that comes first. */
export function pause(ms, signal) {
  return new Promise((resolve, reject) => {
    const gone = () => {
      clearTimeout(timer);
      reject(signal.reason);
    };
    if (signal?.aborted) {
      reject(signal.reason);
      return;
    }
    const timer = setTimeout(() => {
      signal?.removeEventListener("abort", gone);
      resolve();
    }, Math.min(ms, 2 ** 31 - 1));
    signal?.addEventListener("abort", gone, { once: true });
  });
}

export const canceled = (key, operation) => new SendError("canceled", "canceled by the caller", { key, operation });
