// Workflows and their runs, through every method of the client that the server answers.
import { read, refused, until } from './helpers.mjs';

const ended = (client, workflow, runId) =>
  until(async () => {
    const run = await client.getWorkflow(workflow).runById(runId).catch(() => undefined);
    return run && !['running', 'pending', 'waiting'].includes(run.status) && run;
  });

export const list = async client => ({
  all: await client.listWorkflows(),
  partial: await client.listWorkflows(undefined, true),
});

export const details = async client => ({
  one: await client.getWorkflow('math-wf').details(),
  schema: await client.getWorkflow('math-wf').getSchema(),
  unknown: await refused(client.getWorkflow('nothing').details()),
});

export const startAsync = async client => {
  const out = {};
  const inputs = {
    'math-wf': 3,
    'fail-wf': 3,
    'loop-wf': [1, 2, 3],
    'nest-wf': 4,
    'agent-wf': 'Hello',
    'branch-wf': 12,
    'parallel-wf': 5,
    'sleep-wf': 5,
    'until-wf': 3,
  };
  for (const [id, inputData] of Object.entries(inputs)) {
    const run = await client.getWorkflow(id).createRun();
    out[id] = await run.startAsync({ inputData });
  }
  return out;
};

export const start = async client => {
  const run = await client.getWorkflow('math-wf').createRun({ runId: 'started', resourceId: 'ada' });
  const told = await run.start({ inputData: 3 });
  return { runId: run.runId, told, found: await ended(client, 'math-wf', 'started') };
};

export const startTwice = async client => {
  const run = await client.getWorkflow('math-wf').createRun({ runId: 'started-twice' });
  const first = await run.startAsync({ inputData: 3 });
  const second = await run.startAsync({ inputData: 3 });
  const { total } = await client.getWorkflow('math-wf').runs();
  return { first, second, total };
};

export const wrongInput = async client => {
  const run = await client.getWorkflow('math-wf').createRun();
  return refused(run.startAsync({ inputData: 'many' }));
};

export const stream = async client => {
  const out = {};
  const inputs = {
    'math-wf': 3,
    'fail-wf': 3,
    'loop-wf': [1, 2, 3],
    'nest-wf': 4,
    'agent-wf': 'Hello',
    'branch-wf': 12,
    'parallel-wf': 5,
    'sleep-wf': 5,
    'until-wf': 3,
  };
  for (const [id, inputData] of Object.entries(inputs)) {
    const run = await client.getWorkflow(id).createRun();
    out[id] = await read(await run.stream({ inputData }));
  }
  return out;
};

export const observe = async client => {
  const run = await client.getWorkflow('sleep-wf').createRun({ runId: 'watched' });
  const seen = await read(await run.stream({ inputData: 5 }), 3);
  const rest = await read(await run.observe({ offset: 3 }));
  const all = await read(await run.observe());
  const same = await read(await run.observeStream());
  return { seen, rest, all, same };
};

export const hitl = async client => {
  const run = await client.getWorkflow('hitl-wf').createRun({ runId: 'hitl-async' });
  const asks = await run.startAsync({ inputData: 3 });
  const kept = await client.getWorkflow('hitl-wf').runById('hitl-async');
  const step = await refused(run.resumeAsync({ step: 'double', resumeData: { ok: true } }));
  const wrong = await refused(run.resumeAsync({ step: 'human', resumeData: { ok: 'perhaps' } }));
  const went = await run.resumeAsync({ step: 'human', resumeData: { ok: true } });
  const again = await refused(run.resumeAsync({ step: 'human', resumeData: { ok: false } }));
  return { asks, kept, step, wrong, went, again };
};

export const hitlStream = async client => {
  const run = await client.getWorkflow('hitl-wf').createRun();
  const asks = await read(await run.stream({ inputData: 3, closeOnSuspend: true }));
  const went = await read(await run.resumeStream({ step: ['human'], resumeData: { ok: true } }));
  return { asks, went };
};

export const hitlLater = async client => {
  const out = {};
  for (const way of ['resume', 'resumeNoWait']) {
    const run = await client.getWorkflow('hitl-wf').createRun({ runId: `hitl-${way}` });
    await run.start({ inputData: 3 });
    await ended(client, 'hitl-wf', run.runId);
    const told = await run[way]({ step: 'human', resumeData: { ok: false } });
    const found = await until(async () => {
      const { status, ...rest } = await client.getWorkflow('hitl-wf').runById(run.runId);
      return status === 'success' && { status, ...rest };
    });
    out[way] = { told, found };
  }
  return out;
};

export const items = async client => {
  const run = await client.getWorkflow('items-wf').createRun();
  const asks = await run.startAsync({ inputData: [1, 2] });
  const half = await run.resumeAsync({ step: 'approve_item', resumeData: { times: 3 }, forEachIndex: 0 });
  const went = await run.resumeAsync({ step: 'approve_item', resumeData: { times: 4 }, forEachIndex: 1 });
  return { asks, half, went };
};

export const timeTravel = async client => {
  const run = await client.getWorkflow('math-wf').createRun({ runId: 'travelled' });
  await run.startAsync({ inputData: 3 });
  const result = await run.timeTravelAsync({ step: 'inc', inputData: 40 });
  const stream = await read(await run.timeTravelStream({ step: 'inc', inputData: 41 }));
  const context = await run.timeTravelAsync({
    step: 'inc',
    context: { double: { status: 'success', output: 70, payload: 35, startedAt: 1, endedAt: 2 } },
  });
  const told = await run.timeTravel({ step: 'double', inputData: 5 });
  const unknown = await refused(run.timeTravelAsync({ step: 'nothing' }));
  return { result, stream, context, told, unknown };
};

export const restart = async client => {
  const run = await client.getWorkflow('math-wf').createRun();
  await run.startAsync({ inputData: 3 });
  return { wait: await refused(run.restartAsync()), not: await refused(run.restart({})) };
};

export const cancel = async client => {
  const run = await client.getWorkflow('long-wf').createRun({ runId: 'stopped' });
  const stream = await run.stream({ inputData: 1 });
  const seen = [];
  let told;
  for await (const chunk of stream) {
    seen.push(chunk);
    if (chunk.type === 'workflow-step-start' && chunk.payload.id === 'long') told = await run.cancel();
  }
  const waits = await client.getWorkflow('hitl-wf').createRun({ runId: 'stopped-waiting' });
  await waits.startAsync({ inputData: 1 });
  await waits.cancelRun();
  return {
    seen,
    told,
    found: await client.getWorkflow('long-wf').runById('stopped'),
    waited: await client.getWorkflow('hitl-wf').runById('stopped-waiting'),
  };
};

export const runs = async client => {
  const workflow = client.getWorkflow('until-wf');
  for (const id of ['run-a', 'run-b', 'run-c'])
    await (await workflow.createRun({ runId: id })).startAsync({ inputData: 3, resourceId: id });
  return {
    all: await workflow.runs(),
    page: await workflow.runs({ page: 1, perPage: 1 }),
    limited: await workflow.runs({ limit: 2, offset: 1 }),
    of: await workflow.runs({ resourceId: 'run-b' }),
    failed: await workflow.runs({ status: 'failed' }),
    later: await workflow.runs({ fromDate: new Date(Date.now() + 3600000) }),
    one: await workflow.runById('run-a'),
    fields: await workflow.runById('run-a', { fields: ['result'] }),
    flat: await workflow.runById('run-a', { withNestedWorkflows: false }),
    gone: await workflow.deleteRunById('run-a'),
    missing: await refused(workflow.runById('run-a')),
    counts: await client.listWorkflowRunCounts(),
  };
};

export const unknownRun = async client => {
  const run = await client.getWorkflow('math-wf').createRun();
  return {
    observe: await refused(run.observe().then(read)),
    resume: await refused(run.resumeAsync({ step: 'x', resumeData: {} })),
    cancel: await refused(run.cancel()),
  };
};
