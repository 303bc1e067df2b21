// The bucket of a word that is not shared: BLAKE2b of its UTF-8 bytes, 8 bytes long, as the trainer has it (RFC 7693).

const WORD = (1n << 64n) - 1n;
const IV = [
  0x6a09e667f3bcc908n, 0xbb67ae8584caa73bn, 0x3c6ef372fe94f82bn, 0xa54ff53a5f1d36f1n,
  0x510e527fade682d1n, 0x9b05688c2b3e6c1fn, 0x1f83d9abfb41bd6bn, 0x5be0cd19137e2179n,
];
const SIGMA = [
  "0123456789abcdef", "ea489fd61c02b753", "b8c052fdae367194", "7931dcbe265a40f8", "905724afe1bc683d",
  "2c6a0b834d75fe19", "c51fed4a0763928b", "db7ec13950f4862a", "6fe9b308c2d714a5", "a2847615fb9e3cd0",
].map((row) => [...row].map((digit) => parseInt(digit, 16)));

const turned = (x, bits) => ((x >> bits) | (x << (64n - bits))) & WORD;

/** The first 8 bytes' digest of at most any number of bytes, as a whole number, lowest byte first. */
export function blake2b64(bytes) {
  const h = [...IV];
  h[0] ^= 0x01010000n ^ 8n;
  const blocks = Math.max(1, Math.ceil(bytes.length / 128));
  for (let block = 0; block < blocks; block++) {
    const m = [];
    for (let i = 0; i < 16; i++) {
      let word = 0n;
      for (let k = 7; k >= 0; k--) word = (word << 8n) | BigInt(bytes[block * 128 + i * 8 + k] ?? 0);
      m.push(word);
    }
    const v = [...h, ...IV];
    v[12] ^= BigInt(Math.min(bytes.length, (block + 1) * 128));
    if (block === blocks - 1) v[14] ^= WORD;
    const mix = (a, b, c, d, x, y) => {
      v[a] = (v[a] + v[b] + x) & WORD; v[d] = turned(v[d] ^ v[a], 32n);
      v[c] = (v[c] + v[d]) & WORD; v[b] = turned(v[b] ^ v[c], 24n);
      v[a] = (v[a] + v[b] + y) & WORD; v[d] = turned(v[d] ^ v[a], 16n);
      v[c] = (v[c] + v[d]) & WORD; v[b] = turned(v[b] ^ v[c], 63n);
    };
    for (let round = 0; round < 12; round++) {
      const s = SIGMA[round % 10];
      for (let i = 0; i < 4; i++) mix(i, 4 + i, 8 + i, 12 + i, m[s[2 * i]], m[s[2 * i + 1]]);
      for (let i = 0; i < 4; i++) {
        mix(i, 4 + ((i + 1) % 4), 8 + ((i + 2) % 4), 12 + ((i + 3) % 4), m[s[8 + 2 * i]], m[s[9 + 2 * i]]);
      }
    }
    for (let i = 0; i < 8; i++) h[i] ^= v[i] ^ v[i + 8];
  }
  return h[0];
}

export function bucketOf(word, buckets) {
  return Number(blake2b64(new TextEncoder().encode(word)) % BigInt(buckets));
}
