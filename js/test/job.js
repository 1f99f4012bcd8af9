import { createClient } from "../semel.js"; // "@semel/client" where it is installed
import { fileStore } from "../node.js"; // "@semel/client/node"

const bank = createClient({
  base: `${process.env.SEMEL_TEST_SERVER}/api`,
  authorize: () => `Bearer ${process.env.BANK_TOKEN}`,
  store: fileStore(process.argv[2]),
});

// The key is made of what must happen once, so that a second run, or another
// machine, means the same deposit.
await bank.submit("deposit", { account: "interest", cents: 100 }, { key: "interest-2026-01" });
const { done } = await bank.drain({ signal: AbortSignal.timeout(60_000) });
console.log(`${done} done, nothing pending`);
bank.close();
