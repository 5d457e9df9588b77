// Signs or verifies a webhook with the provider's official Node client.
//
// usage: node signature.mjs sign SECRET [TIMESTAMP]      the body on standard input; prints the header
//        node signature.mjs verify HEADER SECRET         the body on standard input; prints `valid` or why not

import { readFileSync } from 'node:fs';
import process from 'node:process';
import Stripe from 'stripe';

const { webhooks } = new Stripe('sk_test_signature');
const [mode, first, second] = process.argv.slice(2);
const body = readFileSync(0);
if (mode === 'sign') {
  const timestamp = second === undefined ? undefined : Number(second);
  console.log(webhooks.generateTestHeaderString({ payload: body.toString(), secret: first, timestamp }));
} else {
  try {
    webhooks.constructEvent(body, first, second);
    console.log('valid');
  } catch (error) {
    console.log(error.message.split('\n')[0]);
  }
}
