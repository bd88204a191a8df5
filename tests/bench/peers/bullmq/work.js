// Does nothing with each job, 50 at once. One byte more in the file says that one more is done.
import { openSync, writeSync } from "node:fs";
import { Worker } from "bullmq";
import { connection, doneFile } from "./settings.js";

const CONCURRENCY = 50;

const done = openSync(doneFile, "a");
const worker = new Worker("bench", async () => void writeSync(done, "."), {
  connection: connection(),
  concurrency: CONCURRENCY,
});
await worker.waitUntilReady();
console.log("ready");
process.on("SIGTERM", async () => {
  await worker.close();
  process.exit(0);
});
