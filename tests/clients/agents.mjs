// Agents and tools, through every method of the client that the server answers.
import { createTool } from '@mastra/client-js';
import { message, refused, said, until } from './helpers.mjs';

const pending = result => ({ runId: result.runId, toolCallId: result.suspendPayload.toolCallId });
const asked = chunks => {
  const { runId, payload } = chunks.find(c => /^tool-call-(approval|suspended)$/.test(c.type));
  return { runId, toolCallId: payload.toolCallId };
};

export const list = async client => ({
  all: await client.listAgents(),
  partial: await client.listAgents(undefined, true),
});

export const details = async client => ({
  one: await client.getAgent('weather-agent').details(),
  unknown: await refused(client.getAgent('nobody').details()),
});

export const providers = client => client.listAgentsModelProviders();

export const generate = client => client.getAgent('weather-agent').generate('How is it in Oslo?');

export const generateMessages = client =>
  client.getAgent('plain').generate([...message('Hi'), ...message([{ type: 'text', text: 'You?' }])]);

export const generateInThread = async client => {
  const agent = client.getAgent('rememberer');
  const memory = { thread: 'thread-generate', resource: 'ada' };
  await agent.generate('One', { memory });
  return agent.generate(message('Two'), { memory });
};

export const generateTitled = async client => {
  const thread = { id: 'thread-titled', title: 'Greetings', metadata: { tag: 'x' } };
  const memory = { thread, resource: 'ada' };
  await client.getAgent('rememberer').generate('Hi', { memory });
  return client.getMemoryThread({ threadId: thread.id, agentId: 'rememberer' }).get();
};

export const generateOptions = client =>
  client.getAgent('weather-agent').generate('How is it?', {
    maxSteps: 1,
    runId: 'run-of-mine',
    modelSettings: { temperature: 0.5, maxOutputTokens: 100 },
    requestContext: { tier: 'gold' },
    toolChoice: 'auto',
    activeTools: ['weatherTool'],
    providerOptions: {},
    tracingOptions: { metadata: { a: 1 } },
  });

export const generateAgain = async client => {
  const agent = client.getAgent('plain');
  const first = await agent.generate('Hi', { runId: 'twice' });
  const second = await agent.generate('Hi', { runId: 'twice' });
  return { first, second };
};

export const failing = client => refused(client.getAgent('failing').generate('Hi'));

export const failingStream = async client => said(await client.getAgent('failing').stream('Hi'));

export const unlucky = client => client.getAgent('unlucky').generate('Hi');

export const unluckyStream = async client => said(await client.getAgent('unlucky').stream('Hi'));

export const stream = async client => said(await client.getAgent('weather-agent').stream('How is it?'));

export const streamPlain = async client => {
  const response = await client.getAgent('plain').stream(message('Hi'), { runId: 'plain-run' });
  return { type: response.headers.get('content-type'), chunks: await said(response) };
};

export const streamReasoning = async client => said(await client.getAgent('thinker').stream('2 x 2?'));

export const streamUntilIdle = async client =>
  said(await client.getAgent('plain').streamUntilIdle('Hi'));

export const subAgent = async client => ({
  result: await client.getAgent('boss').generate('Ask him'),
  chunks: await said(await client.getAgent('boss').stream('Ask him')),
});

const schema = {
  type: 'object',
  properties: { city: { type: 'string' }, degrees: { type: 'number' } },
  required: ['city', 'degrees'],
  additionalProperties: false,
};

export const structured = async client => ({
  result: await client.getAgent('structured').generate('Oslo?', { structuredOutput: { schema } }),
  chunks: await said(
    await client.getAgent('structured').stream('Oslo?', { structuredOutput: { schema } }),
  ),
});

const clientTools = calls => {
  const made = {};
  for (const id of ['browserTime', 'browserPlace'])
    made[id] = createTool({
      id,
      description: `Tells the ${id}`,
      inputSchema: { type: 'object', properties: { zone: { type: 'string' } } },
      execute: async input => {
        calls.push({ id, input });
        return { [id]: calls.length };
      },
    });
  return made;
};

export const clientToolGenerate = async client => {
  const calls = [];
  const result = await client
    .getAgent('caller')
    .generate('What time is it?', { clientTools: clientTools(calls) });
  return { calls, result };
};

export const clientToolStream = async client => {
  const calls = [];
  const response = await client
    .getAgent('caller')
    .stream('What time is it?', { clientTools: clientTools(calls) });
  return { chunks: await said(response), calls };
};

export const clientToolInThread = async client => {
  const calls = [];
  const memory = { thread: 'thread-client-tool', resource: 'ada' };
  const agent = client.getAgent('caller');
  const result = await agent.generate('What time is it?', { clientTools: clientTools(calls), memory });
  const response = await agent.stream('And now?', { clientTools: clientTools(calls), memory });
  const chunks = await said(response);
  return { calls, result, chunks, kept: await client.listThreadMessages('thread-client-tool', { agentId: 'caller' }) };
};

export const clientToolsTwo = async client => {
  const calls = [];
  const agent = client.getAgent('caller-of-two');
  const result = await agent.generate('Both', { clientTools: clientTools(calls) });
  const response = await agent.stream('Both', { clientTools: clientTools(calls) });
  return { result, chunks: await said(response), calls };
};

export const clientToolsChain = async client => {
  const calls = [];
  const agent = client.getAgent('caller-in-a-row');
  const result = await agent.generate('Both', { clientTools: clientTools(calls) });
  const response = await agent.stream('Both', { clientTools: clientTools(calls) });
  return { result, chunks: await said(response), calls };
};

export const approveGenerate = async client => {
  const agent = client.getAgent('approver');
  const asks = await agent.generate('Pay');
  const went = await agent.approveToolCallGenerate(pending(asks));
  return { asks, went, again: await refused(agent.approveToolCallGenerate(pending(asks))) };
};

export const declineGenerate = async client => {
  const agent = client.getAgent('approver');
  const asks = await agent.generate('Pay');
  return { asks, went: await agent.declineToolCallGenerate({ ...pending(asks), reason: 'too much' }) };
};

export const approveStream = async client => {
  const agent = client.getAgent('approver');
  const asks = await said(await agent.stream('Pay'));
  return { asks, went: await said(await agent.approveToolCall(asked(asks))) };
};

export const declineStream = async client => {
  const agent = client.getAgent('approver');
  const asks = await said(await agent.stream('Pay'));
  const went = await said(await agent.declineToolCall(asked(asks)));
  return { asks, went, then: await refused(agent.approveToolCall(asked(asks))) };
};

export const requireApproval = async client => {
  const agent = client.getAgent('weather-agent');
  const asks = await said(await agent.stream('How is it?', { requireToolApproval: true }));
  return { asks, went: await said(await agent.approveToolCall(asked(asks))) };
};

export const resumeStream = async client => {
  const agent = client.getAgent('asker');
  const asks = await said(await agent.stream('Book table 7'));
  const wrong = await refused(agent.resumeStream({ hour: 3 }, asked(asks)).then(said));
  const went = await said(await agent.resumeStream({ time: '19:00' }, asked(asks)));
  return { asks, wrong, went };
};

export const resumeStreamUntilIdle = async client => {
  const agent = client.getAgent('asker');
  const asks = await said(await agent.stream('Book table 7'));
  return said(await agent.resumeStreamUntilIdle({ time: '20:00' }, asked(asks)));
};

export const suspendedRuns = async client => {
  const agent = client.getAgent('approver');
  const memory = { thread: 'thread-suspended', resource: 'ada' };
  const asks = await agent.generate('Pay', { memory });
  const found = await agent.listSuspendedRuns({ threadId: 'thread-suspended' });
  const none = await agent.listSuspendedRuns({ threadId: 'another' });
  const ids = { threadId: 'thread-suspended', resourceId: 'ada' };
  const sent = await agent.sendToolApproval({ ...ids, ...pending(asks), approved: true });
  const left = await until(async () => {
    const { total } = await agent.listSuspendedRuns({ threadId: 'thread-suspended' });
    return total === 0 && 'none';
  });
  return { asks, found, none, sent, left };
};

export const observe = async client => {
  const agent = client.getAgent('slow');
  const memory = { thread: 'thread-observe', resource: 'ada' };
  const response = await agent.stream('Count', { runId: 'observed', memory });
  const reader = response.body.getReader();
  const { value } = await reader.read();
  await reader.cancel();
  const seen = new TextDecoder().decode(value).split('\n\n').filter(f => f.startsWith('data: '));
  const rest = await said(await agent.observe({ runId: 'observed', offset: seen.length }));
  const all = await said(await agent.observe({ runId: 'observed' }));
  return { seen: seen.map(f => JSON.parse(f.slice(6))), rest, all };
};

export const thread = async client => {
  const agent = client.getAgent('rememberer');
  const ids = { threadId: 'thread-signals', resourceId: 'ada' };
  const heard = [];
  const subscription = await agent.subscribeToThread(ids);
  const listening = subscription
    .processDataStream({ onChunk: async chunk => void heard.push(chunk), reconnect: false })
    .catch(() => {});
  const message = { contents: 'Hello', metadata: { clientMessageId: 'mine' } };
  const sent = await agent.sendMessage({ ...ids, message });
  await until(() => heard.some(c => c.type === 'finish' && c.runId === sent.runId));
  const queued = await agent.queueMessage({ ...ids, message: 'And again' });
  await until(() => heard.some(c => c.type === 'finish' && c.runId === queued.runId));
  const signal = { type: 'user', contents: 'A signal' };
  const signalled = await agent.sendSignal({ ...ids, signal });
  await until(() => heard.some(c => c.type === 'finish' && c.runId === signalled.runId));
  const idle = await agent.abortThread(ids);
  subscription.unsubscribe?.();
  return { sent, queued, signalled, idle, heard };
};

export const abortThread = async client => {
  const agent = client.getAgent('slow');
  const ids = { threadId: 'thread-abort', resourceId: 'ada' };
  const memory = { thread: ids.threadId, resource: ids.resourceId };
  const response = await agent.stream('Count', { memory });
  const chunks = [];
  let aborted;
  await response.processDataStream({
    onChunk: async chunk => {
      chunks.push(chunk);
      if (chunk.type === 'text-delta' && !aborted) aborted = await agent.abortThread(ids);
    },
  });
  return { aborted, chunks };
};

export const network = client =>
  refused(client.getAgent('boss').network('Ask him', {}).then(said));

export const agentTools = async client => {
  const agent = client.getAgent('weather-agent');
  return {
    tool: await agent.getTool('weatherTool'),
    gave: await agent.executeTool('weatherTool', { data: { city: 'Rome' }, requestContext: {} }),
  };
};

export const tools = async client => ({
  all: await client.listTools(),
  one: await client.getTool('weatherTool').details(),
  gave: await client.getTool('weatherTool').execute({ data: { city: 'Rome' } }),
  wrong: await client.getTool('weatherTool').execute({ data: { town: 'Rome' } }),
  failed: await refused(client.getTool('broken').execute({ data: {} })),
  unknown: await refused(client.getTool('nothing').details()),
});

export const badRequests = async client => ({
  messages: await refused(client.getAgent('plain').generate(42)),
  none: await refused(client.getAgent('plain').generate([])),
  unknown: await refused(client.getAgent('nobody').generate('Hi')),
  steps: await refused(client.getAgent('plain').generate('Hi', { maxSteps: -1 })),
});

export const aborted = async client => {
  const controller = new AbortController();
  const response = await client
    .getAgent('slow')
    .stream('Count', { abortSignal: controller.signal, runId: 'left', memory: { thread: 'thread-left', resource: 'ada' } });
  const reader = response.body.getReader();
  await reader.read();
  controller.abort();
  const chunks = await said(await client.getAgent('slow').observe({ runId: 'left' }));
  return chunks;
};
