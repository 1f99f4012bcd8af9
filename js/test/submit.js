// A process of node.test.js that submits until it is killed.
import { fileStore } from "../node.js";
import { createClient } from "../semel.js";

const [dir, count, seed] = process.argv.slice(2);
const client = createClient({
  base: `${process.env.SEMEL_TEST_SERVER}/api`,
  principal: "kim",
  lease: 300,
  authorize: () => "Bearer secret-of-kim",
  store: fileStore(dir),
});
for (let i = 0; i < Number(count); i++) {
  const { key } = await client.submit("deposit", { account: "kim", cents: 100 }, { key: `kim-${(i + 5 * Number(seed)) % Number(count)}` });
  console.log(key);
}
