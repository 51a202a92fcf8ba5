// ---------------------------------------------------------------- the peer connection to one user of a call

// "Perfect negotiation" (W3C WebRTC): either side may offer at any time. If two offers cross, the polite side rolls
// back its own. The caller is impolite; in a group call, the user with the lower id.

const MAX_EARLY = 128;        // most queued candidates and offers of one user
const OFFER_WAIT = 1500;      // ms until the callee makes the offer itself: some callers never send one
const FAILED_WAIT = 15000;    // ms for an ICE restart to succeed after the connection failed

function newLink(call, user, { polite, offers }) {
  const pc = new RTCPeerConnection({ iceServers: calls.iceServers });
  const link = {
    call, user, pc, polite, media: new MediaStream(),
    mayOffer: offers,           // the callee waits for the first offer
    agreed: false,              // an offer has been answered
    makingOffer: false, ignoringOffer: false,
    round: 0,                   // counts our offers; an answer names the one it belongs to
    early: [], chain: Promise.resolve(), timer: 0,
  };
  call.links.set(user, link);
  for (const track of [call.mic, call.camera]) if (track) pc.addTrack(track);
  if (offers && !call.mic) pc.addTransceiver('audio', { direction: 'recvonly' });
  if (offers && !call.camera && (call.video || call.group)) pc.addTransceiver('video', { direction: 'recvonly' });

  pc.addEventListener('negotiationneeded', () => makeOffer(link));
  pc.addEventListener('icecandidate', event => sendToPeer(link, 'ice-candidate', { candidate: event.candidate }));
  pc.addEventListener('track', event => {
    link.media.addTrack(event.track);
    for (const change of ['mute', 'unmute', 'ended']) event.track.addEventListener(change, drawCall);
    drawCall();
  });
  pc.addEventListener('connectionstatechange', () => linkChanged(link));
  return link;
}

const isLinkOpen = link => link.pc.signalingState !== 'closed';

function closeLink(link) {
  clearTimeout(link.timer);
  link.pc.close();
  link.call.links.delete(link.user);
}

function sendToPeer(link, type, fields) {
  if (isLinkOpen(link)) sendCallFrame(link.call, type, { recipientId: link.user, ...fields });
}

async function makeOffer(link) {
  if (!link.mayOffer || !isLinkOpen(link)) return;
  try {
    link.makingOffer = true;
    await link.pc.setLocalDescription();
    link.round++;
    sendOffer(link);
  } catch (error) {
    reportLinkError(link, error);
  } finally {
    link.makingOffer = false;
  }
}

const sendOffer = link => sendToPeer(link, 'offer', { offer: link.pc.localDescription, round: link.round, video: link.call.video });

/** Handles the frames of one peer in order, because each negotiation step is asynchronous. */
function queueFrame(link, frame) {
  link.chain = link.chain.then(() => isLinkOpen(link) && linkHandlers[frame.type](link, frame)).catch(error => reportLinkError(link, error));
}

/** A description is an object, or only its SDP text. */
const description = (type, given) => typeof given === 'string' ? { type, sdp: given } : given;

const linkHandlers = {
  async offer(link, frame) {
    const { pc } = link;
    const crossed = link.makingOffer || pc.signalingState !== 'stable';
    // Before the first agreement, some apps accept a call by sending an offer.
    link.ignoringOffer = crossed && !link.polite && link.agreed;
    if (link.ignoringOffer) return;
    await pc.setRemoteDescription(description('offer', frame.offer));
    await addEarlyCandidates(link);
    link.mayOffer = true;
    await pc.setLocalDescription();
    sendToPeer(link, 'answer', { answer: pc.localDescription, round: frame.round });
    if (crossed) await reattachTracks(pc);
    markAgreed(link);
  },

  async answer(link, frame) {
    const { pc } = link;
    if (pc.signalingState !== 'have-local-offer' || (frame.round ?? link.round) !== link.round) return;
    await pc.setRemoteDescription(description('answer', frame.answer));
    await addEarlyCandidates(link);
    markAgreed(link);
  },

  async 'ice-candidate'(link, frame) {
    if (link.pc.remoteDescription) await addCandidate(link, frame);
    else if (link.early.length < MAX_EARLY) link.early.push(frame);
  },
};

/** After its own offer was rolled back, Chromium 148 feeds no sound into the sender until the track is set again. */
async function reattachTracks(pc) {
  for (const { sender } of pc.getTransceivers()) {
    const { track } = sender;
    if (!track) continue;
    await sender.replaceTrack(null);
    await sender.replaceTrack(track);
  }
}

async function addEarlyCandidates(link) {
  for (const frame of link.early.splice(0)) await addCandidate(link, frame);
}

async function addCandidate(link, frame) {
  const given = typeof frame.candidate === 'string' ? { candidate: frame.candidate, sdpMLineIndex: 0 } : frame.candidate;
  // A candidate of an offer that was rolled back fails, which is harmless.
  try { await link.pc.addIceCandidate(given); } catch { /* other candidates remain */ }
}

function markAgreed(link) {
  link.agreed = true;
  const { call } = link;
  if (['calling', 'ringing'].includes(call.stage)) call.stage = 'connecting';
  drawCall();
}

function reportLinkError(link, error) {
  if (isLinkOpen(link)) notice('call trouble', 'bad', ['', `With user ${link.user}: ${error.message}`]);
}

function linkChanged(link) {
  const { call, pc } = link;
  if (pc.connectionState === 'connected') {
    clearTimeout(link.timer);
    link.timer = 0;
    if (call.stage !== 'active') $('polite').textContent = `Connected with ${nameOf(call)}`;
    call.stage = 'active';
    call.since ||= Date.now();
  }
  if (pc.connectionState === 'failed') {
    if (!link.polite) pc.restartIce();
    link.timer ||= setTimeout(() => failLink(link), FAILED_WAIT);
  }
  drawCall();
}

function failLink(link) {
  link.timer = 0;
  // Without the server no ICE restart can be negotiated; the same network outage may affect both.
  if (link.call.lost) { link.timer = setTimeout(() => failLink(link), FAILED_WAIT); return; }
  if (link.call.group || calls.current !== link.call) return;   // the rest of a group call may still work
  sendCallFrame(link.call, 'call_hangup', { reason: 'failed' });
  endCall(link.call, 'failed');
}

/**
 * Restarts ICE after either side lost its socket: frames in flight may be lost too, and a device with a new socket
 * often has a new address. `state` is the server's call state; a ringing call has nothing to restart.
 */
function renegotiate(link, state) {
  if (link.polite || !link.mayOffer) return;
  if (state !== 'ringing') link.pc.restartIce();    // offers as soon as no other offer is open
  if (link.pc.signalingState === 'have-local-offer') sendOffer(link);
}

/** Sends the camera's picture, or none, to one peer; a change of direction triggers a new offer. */
function showCamera(link) {
  const { camera } = link.call;
  const line = link.pc.getTransceivers().find(one => one.receiver.track.kind === 'video' && one.currentDirection !== 'stopped');
  if (!line) { if (camera) link.pc.addTrack(camera); return; }
  line.sender.replaceTrack(camera).catch(error => reportLinkError(link, error));
  line.direction = camera ? 'sendrecv' : 'recvonly';
}
