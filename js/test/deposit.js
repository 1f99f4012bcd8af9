import { Rejected, createClient } from "/js/semel.js";

const bank = createClient({
  base: "/api",
  principal: "alice", // whose intentions these are; no secret
  authorize: () => `Bearer ${sessionStorage.getItem("token")}`,
});

// Outcomes arrive here too: also those that an earlier page was waiting for.
bank.on("outcome", ({ name, key, state, body, error }) => {
  const line = document.createElement("li");
  line.textContent = state === "completed" ? `${name}: the balance is ${body.balance}` : `${name}: ${error.message}`;
  line.dataset.key = key;
  document.querySelector("#outcomes").append(line);
});

document.querySelector("form").addEventListener("submit", async (event) => {
  event.preventDefault();
  const words = document.querySelector("output");
  const cents = Number(event.target.cents.value);
  // Stored when this resolves: from here on it survives a reload.
  const intention = await bank.submit("deposit", { account: "alice", cents });
  words.textContent = "On its way";
  try {
    const { body, replayed } = await intention.outcome();
    words.textContent = `Done${replayed ? ", at an earlier try" : ""}: the balance is ${body.balance}`;
  } catch (err) {
    if (!(err instanceof Rejected)) throw err;
    words.textContent = `Refused: ${err.reason}`;
  }
});
