// ---------------------------------------------------------------- microphone and camera

const PICTURE = { width: { ideal: 640 }, height: { ideal: 360 }, frameRate: { ideal: 24 } };

const MEDIA_TROUBLE = {
  NotAllowedError: 'it is not allowed for this page',
  NotFoundError: 'none was found',
  NotReadableError: 'another program uses it',
};
const mediaTrouble = error => MEDIA_TROUBLE[error.name] || error.message;

/**
 * Opens what is there of a microphone and, if wanted, a camera. A call goes on without either: who only wants
 * to see and hear needs none. `lacks` is a sentence about what is missing.
 */
async function openMedia(wantsCamera) {
  const devices = navigator.mediaDevices;
  // Browsers hide them from pages that somebody on the way could have changed.
  if (!devices) return { mic: null, camera: null, lacks: 'Microphone and camera are only for pages of localhost or over https. You see and hear the others, and they do not see or hear you.' };
  let stream = null, trouble = null;
  const tries = wantsCamera ? [{ audio: true, video: PICTURE }, { audio: true }, { video: PICTURE }] : [{ audio: true }];
  for (const want of tries) {
    try { stream = await devices.getUserMedia(want); break; } catch (error) { trouble ||= error; }
  }
  const mic = stream?.getAudioTracks()[0] || null, camera = stream?.getVideoTracks()[0] || null;
  let lacks = '';
  if (!mic && !camera) lacks = `No ${wantsCamera ? 'microphone and camera' : 'microphone'}: ${mediaTrouble(trouble)}. You hear the others, and they do not hear you.`;
  else if (!mic) lacks = `No microphone: ${mediaTrouble(trouble)}. The others see you and do not hear you.`;
  else if (wantsCamera && !camera) lacks = `No camera: ${mediaTrouble(trouble)}. The others hear you and do not see you.`;
  return { mic, camera, lacks };
}

/** Opens them for a call, and closes them again if it has ended while the browser asked. */
async function openCallMedia(call) {
  const { mic, camera, lacks } = await openMedia(call.video);
  Object.assign(call, { mic, camera });
  if (calls.current !== call) { closeCallMedia(call); return false; }
  if (lacks) notice('media', '', ['', lacks]); else dropNotice('media');
  return true;
}

function closeCallMedia(call) {
  for (const track of [call.mic, call.camera]) track?.stop();
  call.mic = call.camera = null;
}

function toggleMicrophone() {
  const mic = calls.current?.mic;
  if (!mic) return;
  mic.enabled = !mic.enabled;
  $('polite').textContent = mic.enabled ? 'Microphone on' : 'Microphone off';
  drawCall();
}

/** Off means off: the track stops and its light goes out, and the others are told by a new offer. */
async function toggleCamera() {
  const call = calls.current;
  if (!call || call.cameraMoves || call.stage === 'preparing') return;
  if (call.camera) {
    call.camera.stop();
    call.camera = null;
  } else {
    call.cameraMoves = true;
    let camera = null;
    try { camera = (await navigator.mediaDevices.getUserMedia({ video: PICTURE })).getVideoTracks()[0]; }
    catch (error) { notice('media', 'bad', ['', `No camera: ${mediaTrouble(error)}.`]); }
    call.cameraMoves = false;
    if (calls.current !== call) { camera?.stop(); return; }
    call.camera = camera;
    if (camera) { call.video = true; dropNotice('media'); }
  }
  $('polite').textContent = call.camera ? 'Camera on' : 'Camera off';
  for (const link of call.links.values()) showCamera(link);
  drawCall();
}
