// Run once in each new kernel of JavaScript and TypeScript.
//
// Deno's generators of random numbers live in the process and go along with a copy of the machine, so siblings
// would draw the same numbers. Here Math.random is a generator that can be seeded anew, and what must be a secret
// comes from the operating system each time.
{
  let state = crypto.getRandomValues(new BigUint64Array(1))[0];
  const mask = (1n << 64n) - 1n;
  Object.defineProperty(globalThis, Symbol.for("pandastack.reseed"), {
    value: (seed) => { state = (state ^ (BigInt(seed) * 0x9e3779b97f4a7c15n)) & mask; },
  });
  // splitmix64
  Math.random = () => {
    state = (state + 0x9e3779b97f4a7c15n) & mask;
    let z = state;
    z = ((z ^ (z >> 30n)) * 0xbf58476d1ce4e5b9n) & mask;
    z = ((z ^ (z >> 27n)) * 0x94d049bb133111ebn) & mask;
    return Number((z ^ (z >> 31n)) >> 11n) / 2 ** 53;
  };
  const source = Deno.openSync("/dev/urandom");
  crypto.getRandomValues = (array) => {
    const bytes = new Uint8Array(array.buffer, array.byteOffset, array.byteLength);
    for (let done = 0; done < bytes.length;) done += source.readSync(bytes.subarray(done));
    return array;
  };
  crypto.randomUUID = () => {
    const bytes = crypto.getRandomValues(new Uint8Array(16));
    bytes[6] = (bytes[6] & 0x0f) | 0x40;
    bytes[8] = (bytes[8] & 0x3f) | 0x80;
    const hex = Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
    return [hex.slice(0, 8), hex.slice(8, 12), hex.slice(12, 16), hex.slice(16, 20), hex.slice(20)].join("-");
  };
}
// Much code for Node.js calls require; here it finds what is installed below the working directory.
globalThis.require = (await import("node:module")).createRequire(Deno.cwd() + "/");
undefined;
