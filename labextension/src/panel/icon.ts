import { LabIcon } from '@jupyterlab/ui-components';

const draw = (name: string, path: string): LabIcon =>
  new LabIcon({
    name: `mastra:${name}`,
    svgstr:
      '<svg xmlns="http://www.w3.org/2000/svg" width="16" height="16" viewBox="0 0 16 16">' +
      `<path class="jp-icon3" fill="#616161" fill-rule="evenodd" d="${path}"/></svg>`
  });

/** Three runs joined to one: the product's sign. */
export const mastraIcon = draw(
  'mastra',
  'M3.5 2a2 2 0 0 1 1.9 2.6L8 7.2l2.6-2.6a2 2 0 1 1 1 1L9 8.2v2.2a2 2 0 1 1-2 0V8.2L4.4 5.6' +
    'A2 2 0 1 1 3.5 2z'
);
export const agentIcon = draw(
  'agent',
  'M7.4 1h1.2v2H13v10H3V3h4.4zM4.3 4.3v7.4h7.4V4.3zM6 6.6h1.3v2H6zm2.7 0H10v2H8.7zM1 6.5h1.2v3H1z' +
    'm12.8 0H15v3h-1.2z'
);
export const stopIcon = draw('stop', 'M4 4h8v8H4z');
export const approveIcon = draw('approve', 'M13.4 4.4 6.5 12 2.6 8.2l1-1 2.8 2.7 6-6.5z');
export const denyIcon = draw('deny', 'm4.4 3.4 3.6 3.6 3.6-3.6 1 1L9 8l3.6 3.6-1 1L8 9l-3.6 3.6-1-1L7 8 3.4 4.4z');
export const errorIcon = draw('next-error', 'M8 1.5 15 14H1zm0 2.7L3.2 12.7h9.6zM7.4 7h1.2v3H7.4zm0 3.6h1.2v1.2H7.4z');
export const askIcon = draw('ask', 'M2 2h12v9H8l-4 3.2V11H2zm1.4 1.4v6.2h2v1.7l2.1-1.7h5.1V3.4z');
export const dashIcon = draw('dash', 'M2 2h5v7H2zm7 0h5v4H9zm0 6h5v6H9zm-7 3h5v3H2z');
export const doctorIcon = draw('doctor', 'M6.5 2h3v4.5H14v3H9.5V14h-3V9.5H2v-3h4.5z');
export const copyIcon = draw('copy', 'M5 1h9v11h-2v3H2V4h3zm1.3 1.3V4H12v6.7h.7V2.3zM3.3 5.3v8.4h7.4V5.3z');
