// ---------------------------------------------------------------- a connection to one person of a call

// "Perfect negotiation": either side may offer at any time. Where two offers cross, the polite side takes
// its own back. Who called is impolite; in a group call who has the lesser id.

const MAX_EARLY = 128;        // candidates and offers of one person that wait
const OFFER_WAIT = 1500;      // then who has accepted makes the offer: there are apps that leave it to them
const FAILED_WAIT = 15000;    // for a new way to the other side, when the old one is lost

function newLink(call, user, { polite, offers }) {
  const pc = new RTCPeerConnection({ iceServers: calls.iceServers });
  const link = {
    call, user, pc, polite, media: new MediaStream(),
    mayOffer: offers,           // who is called waits for the first offer
    agreed: false,              // an offer has been answered
    making: false, ignoring: false,
    round: 0,                   // of our offers; an answer says which one it is for
    early: [], turn: Promise.resolve(), timer: 0,
  };
  call.links.set(user, link);
  for (const track of [call.mic, call.camera]) if (track) pc.addTrack(track);
  if (offers && !call.mic) pc.addTransceiver('audio', { direction: 'recvonly' });
  if (offers && !call.camera && (call.video || call.group)) pc.addTransceiver('video', { direction: 'recvonly' });

  pc.addEventListener('negotiationneeded', () => makeOffer(link));
  pc.addEventListener('icecandidate', event => tellLink(link, 'ice-candidate', { candidate: event.candidate }));
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

function tellLink(link, type, fields) {
  if (isLinkOpen(link)) tellCall(link.call, type, { recipientId: link.user, ...fields });
}

async function makeOffer(link) {
  if (!link.mayOffer || !isLinkOpen(link)) return;
  try {
    link.making = true;
    await link.pc.setLocalDescription();
    link.round++;
    sendOffer(link);
  } catch (error) {
    linkTrouble(link, error);
  } finally {
    link.making = false;
  }
}

const sendOffer = link => tellLink(link, 'offer', { offer: link.pc.localDescription, round: link.round, video: link.call.video });

/** Frames of one person are taken one after the other: each step of a negotiation takes its time. */
function takeFrame(link, frame) {
  link.turn = link.turn.then(() => isLinkOpen(link) && takers[frame.type](link, frame)).catch(error => linkTrouble(link, error));
}

/** A description is an object, or the text alone. */
const description = (type, given) => typeof given === 'string' ? { type, sdp: given } : given;

const takers = {
  async offer(link, frame) {
    const { pc } = link;
    const crossed = link.making || pc.signalingState !== 'stable';
    // Before anything is agreed, an offer from who is called is how their app accepts.
    link.ignoring = crossed && !link.polite && link.agreed;
    if (link.ignoring) return;
    await pc.setRemoteDescription(description('offer', frame.offer));
    await useEarly(link);
    link.mayOffer = true;
    await pc.setLocalDescription();
    tellLink(link, 'answer', { answer: pc.localDescription, round: frame.round });
    agree(link);
  },

  async answer(link, frame) {
    const { pc } = link;
    if (pc.signalingState !== 'have-local-offer' || (frame.round ?? link.round) !== link.round) return;
    await pc.setRemoteDescription(description('answer', frame.answer));
    await useEarly(link);
    agree(link);
  },

  async 'ice-candidate'(link, frame) {
    if (link.pc.remoteDescription) await useCandidate(link, frame);
    else if (link.early.length < MAX_EARLY) link.early.push(frame);
  },
};

async function useEarly(link) {
  for (const frame of link.early.splice(0)) await useCandidate(link, frame);
}

async function useCandidate(link, frame) {
  const given = typeof frame.candidate === 'string' ? { candidate: frame.candidate, sdpMLineIndex: 0 } : frame.candidate;
  // One that belongs to an offer that was taken back is of no use, and no harm.
  try { await link.pc.addIceCandidate(given); } catch { /* the others do */ }
}

function agree(link) {
  link.agreed = true;
  const { call } = link;
  if (['calling', 'ringing'].includes(call.stage)) call.stage = 'connecting';
  drawCall();
}

function linkTrouble(link, error) {
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
    link.timer ||= setTimeout(() => giveUp(link), FAILED_WAIT);
  }
  drawCall();
}

function giveUp(link) {
  link.timer = 0;
  // Without a server there is no way to agree on another way; it may be the same network that is gone.
  if (link.call.lost) { link.timer = setTimeout(() => giveUp(link), FAILED_WAIT); return; }
  if (link.call.group || calls.current !== link.call) return;   // the others of a group may well hear each other
  tellCall(link.call, 'call_hangup', { reason: 'failed' });
  endCall(link.call, 'failed');
}

/**
 * After either side's socket was lost: what was under way may be lost too, and a device with a new socket often
 * has a new address. `state` is the server's; while it rings there is nothing to renew.
 */
function renewLink(link, state) {
  if (link.polite || !link.mayOffer) return;
  if (state !== 'ringing') link.pc.restartIce();    // offers as soon as no other offer is open
  if (link.pc.signalingState === 'have-local-offer') sendOffer(link);
}

/** The camera's picture, or none, to one person; a change of direction makes a new offer by itself. */
function showCamera(link) {
  const { camera } = link.call;
  const line = link.pc.getTransceivers().find(one => one.receiver.track.kind === 'video' && one.currentDirection !== 'stopped');
  if (!line) { if (camera) link.pc.addTrack(camera); return; }
  line.sender.replaceTrack(camera).catch(error => linkTrouble(link, error));
  line.direction = camera ? 'sendrecv' : 'recvonly';
}
