'use strict';
// One page, no framework. The parts, in this order: state, connection, frames in, actions, drawing; of calls the
// microphone and camera, the connection to one person, the calls, their drawing; start.
// Whatever came from a server or a person is shown with textContent, and `html` is never used: see PROTOCOL.md, 2.11.

const MAX_MESSAGES = 500, MAX_FRAMES = 200, MAX_FACES = 60, MAX_NOTICES = 3, MAX_JOINED = 100;
const MAX_SHOWN_TEXT = 10000, MAX_SHOWN_FRAME = 2000;      // characters: one huge frame must not freeze the page
const TYPING_EVERY = 2000, PING_EVERY = 30000, PROBE_WAIT = 1000;
const FIRST_PAUSE = 500, LONGEST_PAUSE = 30000, STEADY = 5000;

const $ = id => document.getElementById(id);

// ---------------------------------------------------------------- state

const state = {
  user: '',             // empty until the URL, the person or the online list has decided
  thread: '1',          // empty while a new conversation has no thread yet; then `recipient` is set
  recipient: '',
  token: '',            // lives here only: not in storage, not in the URL, not in the frames panel
  confirmed: false,     // thread_joined has come for `thread`
  refused: false,       // an error came instead
  joined: new Set(),    // every thread to join again after a reconnect
  online: new Set(),
  typing: new Set(),
  messages: [],         // of all threads, oldest first, those without an outcome last
  unread: 0,
};
const nobodyChosen = () => state.user === '';
const isHere = item => item.thread ? item.thread === state.thread : !state.thread && item.recipient === state.recipient;

