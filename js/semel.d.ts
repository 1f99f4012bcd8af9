/** Commands that happen once, from a browser or Node. */

/** What a command is sent to: its name, or a route that is bound to it. */
export type Route =
  | string
  | { command: string }
  /** `{key}` in the path stands for the key; every other `{name}` is taken from the body. */
  | { method?: string; path: string };

/** The command as an object, or as JSON text: for numbers beyond 2^53, which JavaScript would round. */
export type Body = object | string;

/** What kind of failure it was. */
export type FailureClass =
  // These may pass by themselves, and are tried again. Browsers tell scripts of
  // the first four only that the connection failed: "connection".
  | "refused" | "reset" | "dns" | "connection" | "timeout" | "throttled" | "server" | "malformed"
  // Somebody else can mend these: an intention that is stored stays so.
  | "tls" | "unauthorized"
  | "canceled" | "forbidden" | "conflict" | "expired" | "too_large" | "reused" | "invalid" | "failed" | "budget" | "deadline";

/** How long to wait before the next try: anywhere up to `first` ms, doubling up to `most`; with `fixed` exactly `first`. */
export interface Backoff {
  /** Milliseconds; 250 unless set. */
  first?: number;
  /** Milliseconds; 30 000 unless set. */
  most?: number;
  fixed?: boolean;
}

/** What follows failures of one class. */
export interface Policy extends Backoff {
  /** The most failures of the class in a row; 1 makes the first final. */
  tries?: number;
}

export interface Options {
  /** The gateway's URL; in a page it may be relative. Credentials are sent nowhere else. */
  base: string;
  /**
   * Who is signed in, by an id that is no secret. What is stored under one
   * principal is never sent or shown under another.
   */
  principal?: string;
  /**
   * Called before every request: returns the Authorization header's value, or
   * headers. What it returns is never stored. To throw means to be signed out.
   */
  authorize?: () => AuthorizationLike | Promise<AuthorizationLike>;
  /** For cookies, as fetch takes it; "same-origin" unless set. */
  credentials?: RequestCredentials;
  /** Where intentions are kept: the best the browser has unless set, and memory in Node. */
  store?: Store;
  /** How outcomes arrive that take longer than one request; "sse" unless set. Long polls are used wherever the other two do not come through. */
  push?: "sse" | "socket" | "poll";
  /** Seconds that the gateway is asked to wait for the outcome; 0 for not at all. Its own default unless set. */
  wait?: number;
  /** Milliseconds for one request; 70 000 unless set. */
  patience?: number;
  /** Milliseconds without a sign of life after which a stream is opened anew; 45 000 unless set. */
  silence?: number;
  /** Between tries, where `policies` says nothing of the class. */
  retry?: Backoff;
  policies?: Partial<Record<FailureClass, Policy>>;
  /** Shared by all clients of the page or process unless set. */
  budget?: Budget;
  /** The most commands that are on their way at once; 4 unless set. With 1 they are sent in the order of submit. */
  parallel?: number;
  /** Milliseconds after which the lead of a silent process passes to another, where there are no Web Locks; 6 000 unless set. */
  lease?: number;
  fetch?: typeof fetch;
}

export type AuthorizationLike = string | Record<string, string> | undefined | null;

/** The answer to a command that was done. A repeat has the same status and text. */
export interface Outcome<T = unknown> {
  state: "completed";
  status: number;
  /** The answer, decoded. */
  body: T;
  /** The answer as it came, for numbers beyond 2^53. */
  text: string;
  /** It is the stored answer of an earlier try. */
  replayed: boolean;
  /** The operation's id. */
  operation: string;
  resource: string;
  key: string;
}

/** One thing that the user means to happen once. */
export interface Intention<T = unknown> {
  readonly id: string;
  readonly key: string;
  /** The command, or the method and path. */
  readonly name: string;
  /** The command's JSON. */
  readonly body: string;
  /** Milliseconds since 1970. */
  readonly createdAt: number;
  /**
   * Resolves to the outcome. Throws Rejected if the business says no, a
   * SendError or SendErrors if it cannot be sent (with `kept`, it is still
   * pending), and the signal's reason if that ends the wait, and only the wait.
   */
  outcome(options?: { signal?: AbortSignal }): Promise<Outcome<T>>;
  /** Stops sending. Resolves to true if it is certain that it did not happen and never will. */
  cancel(): Promise<boolean>;
}

/** An outcome as listeners get it: with `error` in place of a body unless it was completed. */
export type Told =
  | ({ id: string; name: string } & Outcome)
  | { id: string; name: string; key: string; state: "rejected" | "failed" | "canceled" | "error"; status?: number; error: Rejected | SendError | SendErrors };

/** A step of sending, of this tab or of the one that sends for it. */
export interface Try {
  id: string;
  key: string;
  name: string;
  /** Counts from 1 for each intention and page. */
  number: number;
  what: "sending" | "accepted" | "failed" | "completed" | "rejected" | "canceled";
  error?: SendError;
  /** Milliseconds until the next try. */
  wait?: number;
  outcome?: { status: number; text: string; replayed: boolean; code?: string; reason?: string };
}

export interface Client {
  /**
   * Stores an intention and sends it until it has an outcome. Resolves when it
   * is stored, and throws if it cannot be: then nothing was sent. A key that is
   * stored already, with the same body, is the same intention. After
   * `deadline` nothing is sent that the gateway has not accepted.
   */
  submit<T = unknown>(what: Route, body?: Body, options?: { key?: string; deadline?: Date | number }): Promise<Intention<T>>;
  /** Sends now, with retries, and stores nothing. */
  send<T = unknown>(what: Route, body?: Body, options?: {
    key?: string;
    signal?: AbortSignal;
    /** Failures in a row; 8 unless set. */
    tries?: number;
    onTry?: (step: Pick<Try, "number" | "what" | "error" | "wait" | "outcome">) => void;
  }): Promise<Outcome<T>>;
  /** What has no outcome yet, oldest first, whichever tab it is from. */
  pending(): Promise<Intention[]>;
  /** Tries everything now. Resolves when nothing is pending; throws where the user has to sign in, or the signal ends it. */
  drain(options?: { signal?: AbortSignal; onProgress?: (progress: { done: number; left: number }) => void }): Promise<{ done: number }>;
  /**
   * Listens; the function that is returned ends it. An outcome is told to every
   * open tab, and to the next one if nobody listened or waited for it: it
   * counts as seen once a listener has returned, or its promise is resolved.
   */
  on(event: "outcome", listener: (outcome: Told) => unknown): () => void;
  on(event: "try", listener: (step: Try) => void): () => void;
  on(event: "unauthorized", listener: (error: SendError) => void): () => void;
  /** Where intentions are kept. */
  durability(): Promise<string>;
  /** Ends what is under way here. What is pending stays stored, for other tabs and the next page. */
  close(): void;
}

export function createClient(options: Options): Client;

/** The business's no: an outcome, answered to every repeat. */
export class Rejected extends Error {
  code: string;
  reason: string;
  status: number;
  key: string;
  operation: string;
  /** The problem details. */
  body: unknown;
  text: string;
  replayed: boolean;
}

/** One way in which sending failed. */
export class SendError extends Error {
  class: FailureClass;
  /** The HTTP status; 0 if there was no answer. */
  status: number;
  /** The last part of the problem's type, such as "overloaded". */
  type: string;
  key: string;
  operation: string;
  /** How many tries failed so. */
  count: number;
  /** The intention is stored still, and will be sent again. */
  kept: boolean;
  /** Milliseconds that the server asked to stay away. */
  retryAfter: number;
  /** The answer's body. */
  text: string;
  has(kind: FailureClass): boolean;
}

/** What tries come to that failed in different ways. */
export class SendErrors extends AggregateError {
  /** One for each way, with its count; the last one decided. */
  errors: SendError[];
  tries: number;
  /** That of the last one. */
  class: FailureClass;
  key: string;
  operation: string;
  kept: boolean;
  has(kind: FailureClass): boolean;
}

/** Bounds the retries of all clients that share it: requests earn retries, and so does time. */
export class Budget {
  constructor(options?: { /** per request; 0.1 */ ratio?: number; /** per second; 10 */ floor?: number; /** at most; 100 */ saved?: number });
  earn(): void;
  spend(): boolean;
}

/** A random key. */
export function newKey(): string;

/** A record of a store; what is in it is the client's. */
export interface StoreRecord {
  id: string;
  createdAt: number;
  [member: string]: unknown;
}

/** Where intentions are kept. */
export interface Store {
  /** A name for it. */
  kind: string;
  /** Who else sees it: other tabs, other processes, or nobody. */
  scope: "origin" | "machine" | "none";
  /** Everything, oldest first. */
  all(): Promise<StoreRecord[]>;
  /**
   * Replaces a record by what change makes of it, in one step; undefined is for
   * none, before and after. Resolves, to what is there now, once it is durable.
   */
  update(id: string, change: (record: StoreRecord | undefined) => StoreRecord | undefined): Promise<StoreRecord | undefined>;
}

/** A store that ends with the page or process. */
export function memoryStore(): Store;
