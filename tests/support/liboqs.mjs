// liboqs (WebAssembly, npm) behind one line of JSON in and one out, for tests/interop/test_liboqs_wasm.py.
import { createInterface } from "node:readline";

const [where] = process.argv.slice(2);
const oqs = await import(where);
const hex = (bytes) => Buffer.from(bytes).toString("hex");
const bytes = (text) => new Uint8Array(Buffer.from(text, "hex"));
const made = {};

async function algorithm(name) {
  made[name] ??= await oqs[`create${name.replaceAll("-", "")}`]();
  return made[name];
}

const verbs = {
  keypair: (a) => {
    const { publicKey, secretKey } = a.generateKeyPair();
    return { public: hex(publicKey), secret: hex(secretKey) };
  },
  encapsulate: (a, m) => {
    const { ciphertext, sharedSecret } = a.encapsulate(bytes(m.public));
    return { ciphertext: hex(ciphertext), secret: hex(sharedSecret) };
  },
  decapsulate: (a, m) => ({ secret: hex(a.decapsulate(bytes(m.ciphertext), bytes(m.key))) }),
  sign: (a, m) => ({ signature: hex(a.sign(bytes(m.data), bytes(m.key))) }),
  verify: (a, m) => ({ valid: a.verify(bytes(m.data), bytes(m.signature), bytes(m.public)) }),
};

for await (const line of createInterface({ input: process.stdin })) {
  const request = JSON.parse(line);
  let answer;
  try {
    answer = verbs[request.verb](await algorithm(request.name), request);
  } catch (error) {
    answer = { error: String(error) };
  }
  console.log(JSON.stringify(answer));
}
