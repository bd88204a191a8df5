// Leaves nothing behind.
import { connection } from "./settings.js";

const redis = connection();
await redis.flushall();
await redis.quit();
