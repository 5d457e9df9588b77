// Starts npm `stripe-stateful-mock` on a loopback port and prints the port: its own program binds every interface.
//
// usage: node stateful_mock.mjs

import { createRequire } from 'node:module';

const { createExpressApp } = createRequire(import.meta.url)('stripe-stateful-mock');
const server = createExpressApp().listen(0, '127.0.0.1', () => console.log(server.address().port));
