// Memory, vectors, traces, scores and logs, through the methods of the client that are answered.
import { message, refused } from './helpers.mjs';

const agentId = 'rememberer';

export const threads = async client => {
  const made = await client.createMemoryThread({
    agentId,
    resourceId: 'tess',
    threadId: 'thread-made',
    title: 'Made',
    metadata: { n: 1 },
  });
  await client.createMemoryThread({ agentId, resourceId: 'tess', threadId: 'thread-second', title: 'B' });
  const thread = client.getMemoryThread({ threadId: 'thread-made', agentId });
  const got = await thread.get();
  const updated = await thread.update({ title: 'Changed', metadata: { n: 2 }, resourceId: 'tess' });
  const orderBy = { field: 'updatedAt', direction: 'DESC' };
  const all = await client.listMemoryThreads({ resourceId: 'tess', agentId, page: 0, perPage: 1, orderBy });
  const found = await client.listMemoryThreads({ resourceId: 'tess', agentId, metadata: { n: 2 } });
  const none = await client.listMemoryThreads({ resourceId: 'nobody', agentId });
  const gone = await client.getMemoryThread({ threadId: 'thread-second', agentId }).delete();
  const missing = await refused(client.getMemoryThread({ threadId: 'thread-second', agentId }).get());
  return { made, got, updated, all, found, none, gone, missing };
};

export const transferred = async client => {
  await client.createMemoryThread({ agentId, resourceId: 'grace', threadId: 'thread-given' });
  const thread = client.getMemoryThread({ threadId: 'thread-given', agentId });
  return { given: await thread.transfer({ resourceId: 'ada' }), got: await thread.get() };
};

export const messages = async client => {
  const memory = { thread: 'thread-talk', resource: 'grace' };
  const agent = client.getAgent('weather-agent');
  await agent.generate('How is it in Oslo?', { memory });
  const thread = client.getMemoryThread({ threadId: 'thread-talk', agentId: 'weather-agent' });
  const all = await thread.listMessages();
  const some = await client.listThreadMessages('thread-talk', {
    agentId: 'weather-agent',
    page: 0,
    perPage: 1,
    orderBy: { field: 'createdAt', direction: 'DESC' },
  });
  const cloned = await thread.clone({ newThreadId: 'thread-cloned', title: 'Copy' });
  const newest = await thread.clone({ options: { messageLimit: 1 } });
  const copy = await client.listThreadMessages('thread-cloned', { agentId: 'weather-agent' });
  const deleted = await thread.deleteMessages([all.messages[0].id]);
  const left = await thread.listMessages();
  return { all, some, cloned, newest, copy, deleted, left };
};

export const saved = async client => {
  await client.createMemoryThread({ agentId, resourceId: 'grace', threadId: 'thread-saved' });
  const one = {
    ...message('Kept by hand')[0],
    id: 'message-of-mine',
    threadId: 'thread-saved',
    resourceId: 'grace',
    createdAt: new Date().toISOString(),
    type: 'text',
  };
  return {
    saved: await client.saveMessageToMemory({ agentId, messages: [one] }),
    found: await client.listThreadMessages('thread-saved', { agentId }),
  };
};

export const workingMemory = async client => {
  const ids = { agentId, threadId: 'thread-working', resourceId: 'grace' };
  await client.createMemoryThread({ agentId, resourceId: 'grace', threadId: 'thread-working' });
  const before = await client.getWorkingMemory(ids);
  const told = await client.updateWorkingMemory({ ...ids, workingMemory: '# Grace\n- likes tea' });
  return { before, told, after: await client.getWorkingMemory(ids) };
};

export const search = async client => {
  const memory = { thread: 'thread-search', resource: 'linus' };
  await client.getAgent(agentId).generate('The kettle is turquoise', { memory });
  return {
    found: await client.searchMemory({ agentId, resourceId: 'linus', searchQuery: 'turquoise kettle' }),
    none: await client.searchMemory({ agentId, resourceId: 'nobody', searchQuery: 'turquoise' }),
  };
};

export const status = async client => ({
  remembers: await client.getMemoryStatus(agentId),
  not: await client.getMemoryStatus('plain'),
  config: await client.getMemoryConfig({ agentId }),
});

export const notes = async client => {
  const ids = { agentId: 'noting', resourceId: 'grace', threadId: 'thread-notes' };
  const before = await client.getObservationalMemory(ids);
  const memory = { thread: ids.threadId, resource: ids.resourceId };
  for (const text of ['I like tea.', 'With milk.', 'Remember that.'])
    await client.getAgent(ids.agentId).generate(text, { memory });
  return {
    before,
    settled: await client.awaitBufferStatus(ids),
    found: await client.getObservationalMemory(ids),
    status: await client.getMemoryStatus(ids.agentId, undefined, ids),
  };
};

export const conversations = async client => {
  const about = { agent_id: 'weather-agent', resource_id: 'grace', title: 'Talk' };
  const made = await client.conversations.create(about);
  const first = await client.responses.create({
    agent_id: 'weather-agent',
    input: 'How is it in Oslo?',
    conversation_id: made.id,
  });
  const events = [];
  const next = { agent_id: 'weather-agent', input: 'Still?', previous_response_id: first.id };
  for await (const event of await client.responses.stream(next)) events.push(event.type);
  const all = await client.conversations.items.list(made.id);
  const got = await client.conversations.retrieve(made.id);
  const again = await client.responses.retrieve(first.id);
  const unsaid = await client.responses.delete(first.id);
  const left = await client.conversations.items.list(made.id);
  const gone = await client.conversations.delete(made.id);
  const missing = await refused(client.conversations.retrieve(made.id));
  return { made, first, events, all, got, again, unsaid, left, gone, missing };
};

export const vectors = async client => {
  const { vectors: stores } = await client.listVectors();
  const vector = client.getVector(stores[0].name);
  const made = await vector.createIndex({ indexName: 'colours', dimension: 3, metric: 'cosine' });
  const upserted = await vector.upsert({
    indexName: 'colours',
    vectors: [[1, 0, 0], [0, 1, 0], [0.9, 0.1, 0]],
    metadata: [{ name: 'red' }, { name: 'green' }, { name: 'orange' }],
    ids: ['r', 'g', 'o'],
  });
  const query = { indexName: 'colours', queryVector: [1, 0, 0], topK: 2 };
  return {
    stores,
    embedders: await client.listEmbedders(),
    made,
    upserted,
    indexes: await vector.getIndexes(),
    details: await vector.details('colours'),
    nearest: await vector.query({ ...query, includeVector: true }),
    filtered: await vector.query({ ...query, filter: { name: 'green' } }),
    gone: await vector.delete('colours'),
    missing: await refused(vector.details('colours')),
    unknown: await refused(client.getVector('nothing').getIndexes()),
  };
};

export const traces = async client => {
  const result = await client.getAgent('weather-agent').generate('How is it?', { runId: 'traced' });
  const { traceId } = result;
  const one = await client.getTrace(traceId);
  const timeRange = { from: new Date(0).toISOString(), to: new Date(Date.now() + 60000).toISOString() };
  return {
    traceId,
    one,
    light: await client.getTraceLight(traceId),
    span: await client.getSpan(traceId, one.spans[0].spanId),
    all: await client.listTraces({ pagination: { page: 0, perPage: 5 } }),
    brief: await client.listTracesLight({ pagination: { page: 0, perPage: 5 } }),
    queried: await client.queryTraces({
      timeRange,
      orderBy: [{ field: 'startedAt', direction: 'desc' }],
      page: { limit: 3 },
      where: { op: 'eq', left: { path: 'entityName' }, right: { literal: 'weather-agent' } },
    }),
    fields: await client.getTraceQueryFields({ timeRange, predicateScope: 'trace', limit: 10 }),
    missing: await refused(client.getTrace('0'.repeat(32))),
    types: await client.getEntityTypes(),
    names: await client.getEntityNames({ entityType: 'agent' }),
    environments: await client.getEnvironments(),
    services: await client.getServiceNames(),
    tags: await client.getTags(),
  };
};

export const scores = async client => ({
  scorers: await client.listScorers(),
  unknown: await client.getScorer('nothing'),
  byScorer: await client.listScoresByScorerId({ scorerId: 'nothing', page: 0, perPage: 5 }),
  byRun: await client.listScoresByRunId({ runId: 'traced', page: 0, perPage: 5 }),
  byEntity: await client.listScoresByEntityId({
    entityId: 'weather-agent',
    entityType: 'AGENT',
    page: 0,
    perPage: 5,
  }),
});

export const logs = async client => {
  await refused(client.getAgent('failing').generate('Hi'));
  const { transports } = await client.listLogTransports();
  const transportId = transports[0];
  return {
    transports,
    all: await client.listLogs({ transportId, page: 0, perPage: 10 }),
    errors: await client.listLogs({ transportId, logLevel: 'error' }),
    observed: await client.listLogsVNext({ pagination: { page: 0, perPage: 10 } }),
    feedback: await client.listFeedback({ pagination: { page: 0, perPage: 1 } }),
  };
};

export const studio = async client => ({
  packages: await client.getSystemPackages(),
  processors: await client.listProcessors(),
  workspaces: await client.listWorkspaces(),
  servers: await client.getMcpServers(),
});
