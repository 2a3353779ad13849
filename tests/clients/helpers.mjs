// What the scenarios share.

// The chunks of an agent's stream, as the client hands them out.
export async function said(response) {
  const chunks = [];
  await response.processDataStream({ onChunk: async chunk => void chunks.push(chunk) });
  return chunks;
}

// The chunks of a workflow's stream.
export async function read(stream, most = Infinity) {
  const chunks = [];
  const reader = stream.getReader();
  while (chunks.length < most) {
    const { done, value } = await reader.read();
    if (done) return chunks;
    chunks.push(value);
  }
  await reader.cancel();
  return chunks;
}

// What a call is refused with.
export async function refused(promise) {
  try {
    return { gave: await promise };
  } catch ({ status, body, message }) {
    return { status, body, message };
  }
}

// Waits until a value is there.
export async function until(look, seconds = 10) {
  const last = Date.now() + 1000 * seconds;
  for (;;) {
    const found = await look();
    if (found) return found;
    if (Date.now() > last) throw new Error('it did not come');
    await new Promise(done => setTimeout(done, 20));
  }
}

export const message = content => [{ role: 'user', content }];
