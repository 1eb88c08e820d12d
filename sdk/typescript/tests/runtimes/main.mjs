// The checks in Node, Bun and Deno, on the package as it is built: `main.mjs BASE_URL TOKEN_URL FOLDER`.
import process from "node:process";
import * as sdk from "../../dist/esm/index.js";
import { run } from "./checks.mjs";

const [baseUrl, tokenUrl, folder] = process.argv.slice(2);
// Node has a WebSocket of its own since version 22.
const webSocket = globalThis.WebSocket ?? (await import("ws")).WebSocket;
await run({ sdk, baseUrl, tokenUrl, folder, webSocket }, (line) => console.log(line));
process.exit(0);
