// ---------------------------------------------------------------- calls

// One current call, and the incoming calls that ring. The server reports when a call ends, and why.

const MAX_RINGS = 8, MAX_ENDED = 50, MAX_IN_CALL = 8, GONE_WAIT = 3000;

const calls = {
  current: null,
  rings: new Map(),     // unanswered incoming calls, by callId
  ended: new Set(),     // ended calls: a late frame must not ring again
  iceServers: [],
  iceTimer: 0,
  unsentEnds: [],       // end frames of calls that ended while there was no connection
};

/** `peer` is empty in a group call, which `thread` identifies. Stages: preparing, calling, ringing, connecting, active. */
function newCall(fields) {
  return { links: new Map(), frames: [], mic: null, camera: null, group: false, stage: 'preparing', since: 0, lost: false, offline: false, joined: false, ...fields };
}

const nameOf = call => call.group ? `everyone in thread ${call.thread}` : `user ${call.peer}`;
const capital = text => text[0].toUpperCase() + text.slice(1);
const isWaiting = call => call.caller && ['calling', 'ringing'].includes(call.stage);

/** `userId` is reliable: the server removes the id of another user. */
function sendCallFrame(call, type, fields = {}) {
  const thread = call.thread ? { threadId: call.thread } : {};
  return transmit({ type, callId: call.id, senderId: state.user, userId: state.user, ...thread, ...fields });
}

function toPeer(call) { return call.group ? {} : { recipientId: call.peer }; }

// ------------------------------ actions of the user

/** Calls `peer`, or everyone in this thread if `peer` is empty. */
async function beginCall(video, peer) {
  if (calls.current || !canSend()) return;
  const theirs = [...calls.rings.values()].find(ring => peer && !ring.group && !ring.gone && ring.from === peer);
  if (theirs) { acceptCall(theirs, video); return; }
  const call = newCall({ id: newClientId(), peer, group: !peer, thread: state.thread, video, caller: true });
  calls.current = call;
  dropCallNotices(peer);
  drawCall();
  if (!await openCallMedia(call)) return;
  if (!sendCallFrame(call, 'call_initiated', { ...toPeer(call), video, clientId: call.id })) { endCall(call, 'disconnected'); return; }
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
  if (call.group) sendCallFrame(call, 'call_joined', { clientId: call.id });
  else awaitOffer(call);
  drawCall();
}

/** Answers the caller's offer; makes one if none arrives. */
function awaitOffer(call) {
  const link = newLink(call, call.peer, { polite: true, offers: false });
  for (const frame of call.frames.splice(0)) queueFrame(link, frame);
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
  sendEnd(ring, calls.current ? 'call_busy' : 'call_rejected');
  drawRings();
}

function hangUp() {
  const call = calls.current;
  if (!call) return;
  const unanswered = call.stage === 'preparing';
  if (!call.caller && unanswered) sendEnd(call, 'call_rejected');
  else if (isWaiting(call)) sendEnd(call, 'call_cancelled');
  else if (!unanswered) sendEnd(call, call.group ? 'call_left' : 'call_hangup');
  endCall(call, '');
}

/** Sends an end frame, if necessary on the next connection, so that the peer need not wait for a timeout of the server. */
function sendEnd(call, type) {
  const sent = sendCallFrame(call, type);
  if (!sent && calls.unsentEnds.length < MAX_RINGS) calls.unsentEnds.push({ call, type });
}

/** An empty reason means that the user of this page ended the call. */
function endCall(call, reason) {
  if (calls.current !== call) return;
  const hadFocus = $('call').contains(document.activeElement);
  calls.current = null;
  addEnded(call.id);
  for (const link of [...call.links.values()]) closeLink(link);
  closeCallMedia(call);
  for (const key of ['call trouble', 'media']) dropNotice(key);
  showEnd(call, reason);
  drawCall();
  if (hadFocus) $(call.video ? 'videoCall' : 'audioCall').focus();   // not the text box: a phone would open its keyboard
}

function addEnded(id) {
  calls.ended.add(id);
  if (calls.ended.size > MAX_ENDED) calls.ended.delete(calls.ended.values().next().value);
}

/** Ends all calls, because the user changes or the page closes. */
function leaveCalls() {
  if (calls.current) hangUp();
  calls.rings.clear();
  calls.unsentEnds = [];
  drawRings();
}

// ------------------------------ the connection to the server

const ASK_ICE = 'ice-servers', LATE = 'late';

/** Requests STUN and TURN servers. The server may have none, or not know this frame type. */
function askIceServers() {
  clearTimeout(calls.iceTimer);
  transmit({ type: 'ice_servers', clientId: ASK_ICE });
}

function suspendCalls() {
  clearTimeout(calls.iceTimer);
  if (calls.current) calls.current.lost = true;     // media flow without the server
  for (const ring of calls.rings.values()) ring.gone = true;
  drawCall();
}

/** After a reconnect, calls that still ring ring again; for the others the server reports how they ended. */
function resumeCalls() {
  const call = calls.current;
  askIceServers();
  for (const { call, type } of calls.unsentEnds.splice(0)) {
    // The server may not have noticed the lost connection yet, and accepts an end from the call's device only.
    if (['call_hangup', 'call_left'].includes(type)) sendCallFrame(call, 'call_resume', { clientId: LATE });
    sendCallFrame(call, type, { clientId: LATE });
  }
  if (call && call.stage !== 'preparing') sendCallFrame(call, 'call_resume', { clientId: call.id });
  else if (call) call.lost = false;
  setTimeout(() => {
    if (!isOpen()) return;
    for (const ring of [...calls.rings.values()]) if (ring.gone) calls.rings.delete(ring.id);
    drawRings();
  }, GONE_WAIT);
}

/** Returns true if the error concerns a call and needs no separate notice. */
function handleCallError(frame, code, text) {
  if (frame.clientId === ASK_ICE || frame.clientId === LATE) return true;
  const about = String(frame.replyTo || '');
  if (!about.startsWith('call_') && !['offer', 'answer', 'ice-candidate'].includes(about)) return false;
  const call = calls.current;
  const isThis = call && (frame.callId == null ? frame.clientId === call.id : String(frame.callId) === call.id);
  const isOver = ['no_such_call', 'not_your_call'].includes(code);
  if (!isThis) return isOver;                        // the call has just ended: no notice needed
  if (code === 'recipient_offline' && !call.group) { call.offline = isWaiting(call); drawCall(); return true; }
  const begins = ['call_initiated', 'call_joined', 'call_resume'].includes(about);
  if (!begins && !isOver) return call.group && code === 'recipient_offline';    // one of several is offline
  endCall(call, code);
  notice('call end', 'bad', [code, text]);
  return true;
}

// ------------------------------ incoming frames

function ringOf(frame) {
  const id = String(frame.callId);
  const known = calls.rings.get(id);
  if (known || calls.ended.has(id) || calls.rings.size >= MAX_RINGS) return known;
  const ring = {
    id, from: String(frame.userId ?? frame.senderId), group: frame.recipientId == null,
    thread: String(frame.threadId ?? ''), video: frame.video === true, frames: [], gone: false,
  };
  calls.rings.set(id, ring);
  sendCallFrame(ring, 'call_ringing');
  return ring;
}

/** Passes offers, answers and candidates to their call, or queues them with the ringing call. */
function routeFrame(frame) {
  if (frame.callId == null) return;
  const id = String(frame.callId), call = calls.current;
  if (call?.id !== id) {
    const ring = frame.type === 'offer' ? ringOf(frame) : calls.rings.get(id);
    if (ring) keepEarlyFrame(ring, frame);
    drawRings();
    return;
  }
  const from = call.group ? String(frame.userId ?? frame.senderId) : call.peer;
  let link = call.links.get(from);
  if (!link && call.joined && frame.type === 'offer' && call.links.size < MAX_IN_CALL - 1) {
    link = newLink(call, from, { polite: isPolite(from), offers: false });
  }
  if (link) queueFrame(link, frame); else keepEarlyFrame(call, frame);
}

const isPolite = other => state.user > other;

function keepEarlyFrame(holder, frame) {
  if (frame.type === 'offer') holder.frames = [frame, ...holder.frames.filter(one => one.type !== 'offer')];
  else if (holder.frames.length < MAX_EARLY) holder.frames.push(frame);
}

Object.assign(handlers, {
  call_initiated(frame) {
    if (frame.callId == null) return;
    const call = calls.current;
    if (call?.id === String(frame.callId)) { resendAnswer(call); return; }
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
    for (const link of call.links.values()) if (isOurs || link.user === String(frame.userId)) renegotiate(link, frame.state);
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
      if (old) closeLink(old);          // they have rejoined, without their old connection
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
      addEnded(id);
      if (reason !== 'glare') showEnd({ ...ring, peer: ring.group ? '' : ring.from, caller: false }, reason);
      drawRings();
    }
    if (call?.id !== id) return;
    if (reason === 'glare' && frame.continuesAs != null && call.caller) switchToTheirs(call, String(frame.continuesAs));
    else endCall(call, reason);
  },

  ice_servers(frame) {
    calls.iceServers = Array.isArray(frame.iceServers) ? frame.iceServers : [];
    const seconds = Number(frame.ttl);
    clearTimeout(calls.iceTimer);
    // TURN credentials expire; a call that restarts ICE later needs valid ones.
    if (seconds > 0) calls.iceTimer = setTimeout(askIceServers, Math.min(Math.max(seconds * 800, 10000), 2 ** 31 - 1));
    for (const link of calls.current?.links.values() ?? []) link.pc.setConfiguration({ iceServers: calls.iceServers });
  },
});

/** Glare: both users called each other and the other call continues, so it is accepted without ringing. */
function switchToTheirs(call, id) {
  for (const link of [...call.links.values()]) closeLink(link);
  addEnded(call.id);
  const ring = calls.rings.get(id);
  calls.rings.delete(id);
  Object.assign(call, { id, caller: false, stage: 'connecting', offline: false, frames: ring ? ring.frames : [] });
  awaitOffer(call);
  drawCall();
}

/** The call rings although this page has answered, so the answer was lost with a connection. */
function resendAnswer(call) {
  const link = call.links.get(call.peer), made = link?.pc.localDescription;
  if (!call.caller && made?.type === 'answer') sendToPeer(link, 'answer', { answer: made });
}
