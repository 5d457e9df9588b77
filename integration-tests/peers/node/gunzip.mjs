// Decompresses a gzip file with Node's own zlib and prints length and SHA-256 of what comes out.
import { createHash } from "node:crypto";
import { createReadStream } from "node:fs";
import { pipeline } from "node:stream/promises";
import { createGunzip } from "node:zlib";

const hash = createHash("sha256");
let length = 0;
await pipeline(createReadStream(process.argv[2]), createGunzip(), async (chunks) => {
  for await (const chunk of chunks) {
    length += chunk.length;
    hash.update(chunk);
  }
});
console.log(length, hash.digest("hex"));
