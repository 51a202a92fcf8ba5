'use strict';
// One page, no framework. The parts, in this order: state, connection, incoming frames, actions, drawing; for calls the
// microphone and camera, the connection to one peer, the calls, their drawing; start.
// Text from a server or a user is shown with textContent only, and `html` is never used: see PROTOCOL.md, 2.11.

const MAX_MESSAGES = 500, MAX_FRAMES = 200, MAX_LISTED = 60, MAX_NOTICES = 3, MAX_JOINED = 100;
const MAX_SHOWN_TEXT = 10000, MAX_SHOWN_FRAME = 2000;      // characters: one huge frame must not freeze the page
const TYPING_EVERY = 2000, PING_EVERY = 30000, PROBE_WAIT = 1000;
const FIRST_PAUSE = 500, LONGEST_PAUSE = 30000, STEADY = 5000;

const $ = id => document.getElementById(id);

// ---------------------------------------------------------------- state

const state = {
  user: '',             // empty until the URL, the user or the online list has decided
  thread: '1',          // empty while a new conversation has no thread yet; then `recipient` is set
  recipient: '',
  token: '',            // kept here only: not in storage, not in the URL, not in the frames panel
  confirmed: false,     // thread_joined has arrived for `thread`
  refused: false,       // an error arrived instead
  joined: new Set(),    // every thread to join again after a reconnect
  online: new Set(),
  typing: new Set(),
  messages: [],         // of all threads, oldest first; those without an outcome last
  unread: 0,
};
const hasUser = () => state.user !== '';
const isInView = item => item.thread ? item.thread === state.thread : !state.thread && item.recipient === state.recipient;

