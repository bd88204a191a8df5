// What the driver gives every peer.
import { Redis } from "ioredis";

export const count = Number(process.env.BENCH_COUNT);
export const payload = process.env.BENCH_PAYLOAD;
export const doneFile = process.env.BENCH_DONE;
export const connection = () => new Redis(process.env.BENCH_URL, { maxRetriesPerRequest: null });
