import type { Store } from "./semel.js";

/**
 * Keeps intentions as files in a directory, which is made if it is missing.
 * Processes of one machine can share it. The bodies of commands are in it.
 */
export function fileStore(directory: string): Store;
