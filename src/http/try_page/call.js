// ---------------------------------------------------------------- calls

// One call at a time, and those that ring. The server says when one ends, and why.

const MAX_RINGS = 8, MAX_ENDED = 50, MAX_IN_CALL = 8, GONE_WAIT = 3000;

const calls = {
  current: null,
  rings: new Map(),     // incoming calls that nobody has answered, by callId
  ended: new Set(),     // a late frame of these must not ring
  iceServers: [],
  iceTimer: 0,
  unsaid: [],           // how calls were ended while there was no connection
};

/** `peer` is empty in a group call; then `thread` says where. Stages: preparing, calling, ringing, connecting, active. */
function newCall(fields) {
  return { links: new Map(), frames: [], mic: null, camera: null, group: false, stage: 'preparing', since: 0, lost: false, offline: false, joined: false, ...fields };
}

const nameOf = call => call.group ? `everyone in thread ${call.thread}` : `user ${call.peer}`;
const capital = text => text[0].toUpperCase() + text.slice(1);
const isWaiting = call => call.caller && ['calling', 'ringing'].includes(call.stage);

/** `userId` says for certain who speaks: the server lets nobody write another's. */
function tellCall(call, type, fields = {}) {
  const thread = call.thread ? { threadId: call.thread } : {};
  return transmit({ type, callId: call.id, senderId: state.user, userId: state.user, ...thread, ...fields });
}

function toPeer(call) { return call.group ? {} : { recipientId: call.peer }; }

// ------------------------------ what a person does

/** Calls `peer`, or everyone in this thread where that is empty. */
async function beginCall(video, peer) {
  if (calls.current || !canSend()) return;
  const theirs = [...calls.rings.values()].find(ring => peer && !ring.group && !ring.gone && ring.from === peer);
  if (theirs) { acceptCall(theirs, video); return; }
  const call = newCall({ id: newClientId(), peer, group: !peer, thread: state.thread, video, caller: true });
  calls.current = call;
  dropCallNotices(peer);
  drawCall();
  if (!await openCallMedia(call)) return;
  if (!tellCall(call, 'call_initiated', { ...toPeer(call), video, clientId: call.id })) { endCall(call, 'disconnected'); return; }
  call.stage = 'calling';
  call.joined = call.group;
  if (peer) newLink(call, peer, { polite: false, offers: true });
  drawCall();
}

async function acceptCall(ring, video) {
  if (calls.current) hangUp();
  calls.rings.delete(ring.id);
  const call = newCall({ ...ring, peer: ring.group ? '' : ring.from, video, caller: false });
  calls.current = call;
  dropCallNotices(ring.from);
  drawCall();
  if (!await openCallMedia(call)) return;
  call.stage = 'connecting';
  if (call.group) tellCall(call, 'call_joined', { clientId: call.id });
  else awaitOffer(call);
  drawCall();
}

/** Answers the caller's offer; if none comes, makes one. */
function awaitOffer(call) {
  const link = newLink(call, call.peer, { polite: true, offers: false });
  for (const frame of call.frames.splice(0)) takeFrame(link, frame);
  setTimeout(() => {
    if (link.mayOffer || !isLinkOpen(link)) return;
    link.mayOffer = true;
    if (!call.mic) link.pc.addTransceiver('audio', { direction: 'recvonly' });
    makeOffer(link);
  }, OFFER_WAIT);
}

function declineCall(ring) {
  calls.rings.delete(ring.id);
  calls.ended.add(ring.id);
  sayEnd(ring, calls.current ? 'call_busy' : 'call_rejected');
  drawRings();
}

function hangUp() {
  const call = calls.current;
  if (!call) return;
  const unanswered = call.stage === 'preparing';
  if (!call.caller && unanswered) sayEnd(call, 'call_rejected');
  else if (isWaiting(call)) sayEnd(call, 'call_cancelled');
  else if (!unanswered) sayEnd(call, call.group ? 'call_left' : 'call_hangup');
  endCall(call, '');
}

/** Without a connection it is said on the next one: the other side should not wait for the server to find out. */
function sayEnd(call, type) {
  const said = tellCall(call, type);
  if (!said && calls.unsaid.length < MAX_RINGS) calls.unsaid.push({ call, type });
}

/** An empty reason: the person here ended it. */
function endCall(call, reason) {
  if (calls.current !== call) return;
  const hadFocus = $('call').contains(document.activeElement);
  calls.current = null;
  rememberEnded(call.id);
  for (const link of [...call.links.values()]) closeLink(link);
  closeCallMedia(call);
  for (const key of ['call trouble', 'media']) dropNotice(key);
  tellEnd(call, reason);
  drawCall();
  if (hadFocus) $(call.video ? 'videoCall' : 'audioCall').focus();   // not the text box: a phone would open its keyboard
}

function rememberEnded(id) {
  calls.ended.add(id);
  if (calls.ended.size > MAX_ENDED) calls.ended.delete(calls.ended.values().next().value);
}

/** Another user, or the page goes away. */
function leaveCalls() {
  if (calls.current) hangUp();
  calls.rings.clear();
  calls.unsaid = [];
  drawRings();
}

// ------------------------------ the connection to the server

const ASK_ICE = 'ice-servers', LATE = 'late';

/** Servers on the way that pass the media on. A server may know none, or not know the question. */
function askIceServers() {
  clearTimeout(calls.iceTimer);
  transmit({ type: 'ice_servers', clientId: ASK_ICE });
}

function callsLoseServer() {
  clearTimeout(calls.iceTimer);
  if (calls.current) calls.current.lost = true;     // the media go on without the server
  for (const ring of calls.rings.values()) ring.gone = true;
  drawCall();
}

/** What still rings, rings again on a new connection; for the rest the server says how it ended. */
function resumeCalls() {
  const call = calls.current;
  askIceServers();
  for (const { call, type } of calls.unsaid.splice(0)) {
    // The server may not know yet that the old connection is lost, and takes the word of one device only.
    if (['call_hangup', 'call_left'].includes(type)) tellCall(call, 'call_resume', { clientId: LATE });
    tellCall(call, type, { clientId: LATE });
  }
  if (call && call.stage !== 'preparing') tellCall(call, 'call_resume', { clientId: call.id });
  else if (call) call.lost = false;
  setTimeout(() => {
    if (!isOpen()) return;
    for (const ring of [...calls.rings.values()]) if (ring.gone) calls.rings.delete(ring.id);
    drawRings();
  }, GONE_WAIT);
}

/** True if an error is about a call and needs no notice of its own. */
function takeCallError(frame, code, text) {
  if (frame.clientId === ASK_ICE || frame.clientId === LATE) return true;
  const about = String(frame.replyTo || '');
  if (!about.startsWith('call_') && !['offer', 'answer', 'ice-candidate'].includes(about)) return false;
  const call = calls.current;
  const isThis = call && (frame.callId == null ? frame.clientId === call.id : String(frame.callId) === call.id);
  const isOver = ['no_such_call', 'not_your_call'].includes(code);
  if (!isThis) return isOver;                        // a call that has just ended: nobody needs to know
  if (code === 'recipient_offline' && !call.group) { call.offline = isWaiting(call); drawCall(); return true; }
  const begins = ['call_initiated', 'call_joined', 'call_resume'].includes(about);
  if (!begins && !isOver) return call.group && code === 'recipient_offline';    // one of several is just away
  endCall(call, code);
  notice('call end', 'bad', [code, text]);
  return true;
}

// ------------------------------ frames in

function ringOf(frame) {
  const id = String(frame.callId);
  const known = calls.rings.get(id);
  if (known || calls.ended.has(id) || calls.rings.size >= MAX_RINGS) return known;
  const ring = {
    id, from: String(frame.userId ?? frame.senderId), group: frame.recipientId == null,
    thread: String(frame.threadId ?? ''), video: frame.video === true, frames: [], gone: false,
  };
  calls.rings.set(id, ring);
  tellCall(ring, 'call_ringing');
  return ring;
}

/** Offers, answers and candidates go to the call they belong to, or wait with the one that rings. */
function routeFrame(frame) {
  if (frame.callId == null) return;
  const id = String(frame.callId), call = calls.current;
  if (call?.id !== id) {
    const ring = frame.type === 'offer' ? ringOf(frame) : calls.rings.get(id);
    if (ring) keepFrame(ring, frame);
    drawRings();
    return;
  }
  const from = call.group ? String(frame.userId ?? frame.senderId) : call.peer;
  let link = call.links.get(from);
  if (!link && call.joined && frame.type === 'offer' && call.links.size < MAX_IN_CALL - 1) {
    link = newLink(call, from, { polite: isPolite(from), offers: false });
  }
  if (link) takeFrame(link, frame); else keepFrame(call, frame);
}

const isPolite = other => state.user > other;

function keepFrame(holder, frame) {
  if (frame.type === 'offer') holder.frames = [frame, ...holder.frames.filter(one => one.type !== 'offer')];
  else if (holder.frames.length < MAX_EARLY) holder.frames.push(frame);
}

Object.assign(handlers, {
  call_initiated(frame) {
    if (frame.callId == null) return;
    const call = calls.current;
    if (call?.id === String(frame.callId)) { repeatAnswer(call); return; }
    const ring = ringOf(frame);
    if (ring) ring.gone = false;
    drawRings();
  },

  offer: routeFrame,
  answer: routeFrame,
  'ice-candidate': routeFrame,

  call_ringing(frame) {
    const call = calls.current;
    if (call?.id !== String(frame.callId) || call.stage !== 'calling') return;
    Object.assign(call, { stage: 'ringing', offline: false });
    $('polite').textContent = 'It rings.';
    drawCall();
  },

  call_rejected(frame) {
    const call = calls.current;
    if (call?.group && call.id === String(frame.callId)) notice('call trouble', '', ['', `User ${frame.userId} declined the call.`]);
  },

  call_resumed(frame) {
    const call = calls.current;
    if (call?.id !== String(frame.callId)) return;
    const isOurs = frame.clientId === call.id;
    if (isOurs) call.lost = false;
    for (const link of call.links.values()) if (isOurs || link.user === String(frame.userId)) renewLink(link, frame.state);
    drawCall();
  },

  call_joined(frame) {
    const call = calls.current, user = String(frame.userId);
    if (call?.id !== String(frame.callId)) return;
    if (Array.isArray(frame.userIds)) {
      call.joined = true;
      const others = frame.userIds.map(String).filter(one => one !== state.user && !call.links.has(one));
      for (const other of others.slice(0, MAX_IN_CALL - 1)) newLink(call, other, { polite: isPolite(other), offers: true });
    } else if (user !== state.user) {
      const old = call.links.get(user);
      if (old) closeLink(old);          // they have come anew, with nothing of their old connection
      if (isWaiting(call)) call.stage = 'connecting';
      $('polite').textContent = `User ${user} has joined the call`;
    }
    drawCall();
  },

  call_left(frame) {
    const call = calls.current, user = String(frame.userId);
    const link = call?.id === String(frame.callId) && call.links.get(user);
    if (!link) return;
    closeLink(link);
    $('polite').textContent = `User ${user} has left the call`;
    drawCall();
  },

  call_ended(frame) {
    const id = String(frame.callId), reason = String(frame.reason), call = calls.current, ring = calls.rings.get(id);
    if (ring) {
      calls.rings.delete(id);
      rememberEnded(id);
      if (reason !== 'glare') tellEnd({ ...ring, peer: ring.group ? '' : ring.from, caller: false }, reason);
      drawRings();
    }
    if (call?.id !== id) return;
    if (reason === 'glare' && frame.continuesAs != null && call.caller) takeTheirs(call, String(frame.continuesAs));
    else endCall(call, reason);
  },

  ice_servers(frame) {
    calls.iceServers = Array.isArray(frame.iceServers) ? frame.iceServers : [];
    const seconds = Number(frame.ttl);
    clearTimeout(calls.iceTimer);
    // Passwords of relays end; a call that needs a new way then should have the new ones.
    if (seconds > 0) calls.iceTimer = setTimeout(askIceServers, Math.min(Math.max(seconds * 800, 10000), 2 ** 31 - 1));
    for (const link of calls.current?.links.values() ?? []) link.pc.setConfiguration({ iceServers: calls.iceServers });
  },
});

/** Both called each other and theirs stands: the two want to talk, so nobody is asked. */
function takeTheirs(call, id) {
  for (const link of [...call.links.values()]) closeLink(link);
  rememberEnded(call.id);
  const ring = calls.rings.get(id);
  calls.rings.delete(id);
  Object.assign(call, { id, caller: false, stage: 'connecting', offline: false, frames: ring ? ring.frames : [] });
  awaitOffer(call);
  drawCall();
}

/** It rings here though we have answered: the answer was lost with a connection. */
function repeatAnswer(call) {
  const link = call.links.get(call.peer), made = link?.pc.localDescription;
  if (!call.caller && made?.type === 'answer') tellLink(link, 'answer', { answer: made });
}
