// ---------------------------------------------------------------- microphone and camera

const PICTURE = { width: { ideal: 640 }, height: { ideal: 360 }, frameRate: { ideal: 24 } };

const MEDIA_ERRORS = {
  NotAllowedError: 'it is not allowed for this page',
  NotFoundError: 'none was found',
  NotReadableError: 'another program uses it',
};
const describeMediaError = error => MEDIA_ERRORS[error.name] || error.message;

/**
 * Opens the microphone and, with `withCamera`, the camera, as far as they are available. A call works without
 * either, to watch and listen. `missing` is a sentence about missing devices.
 */
async function openMedia(withCamera) {
  const devices = navigator.mediaDevices;
  // Browsers offer devices only to secure contexts.
  if (!devices) return { mic: null, camera: null, missing: 'Browsers offer microphone and camera only on localhost or over https. You see and hear the others, and they do not see or hear you.' };
  let stream = null, trouble = null;
  const tries = withCamera ? [{ audio: true, video: PICTURE }, { audio: true }, { video: PICTURE }] : [{ audio: true }];
  for (const want of tries) {
    try { stream = await devices.getUserMedia(want); break; } catch (error) { trouble ||= error; }
  }
  const mic = stream?.getAudioTracks()[0] || null, camera = stream?.getVideoTracks()[0] || null;
  let missing = '';
  if (!mic && !camera) missing = `No ${withCamera ? 'microphone and camera' : 'microphone'}: ${describeMediaError(trouble)}. You hear the others, and they do not hear you.`;
  else if (!mic) missing = `No microphone: ${describeMediaError(trouble)}. The others see you and do not hear you.`;
  else if (withCamera && !camera) missing = `No camera: ${describeMediaError(trouble)}. The others hear you and do not see you.`;
  return { mic, camera, missing };
}

/** Opens the devices of a call, and closes them again if the call ended while the browser asked for permission. */
async function openCallMedia(call) {
  const { mic, camera, missing } = await openMedia(call.video);
  Object.assign(call, { mic, camera });
  if (calls.current !== call) { closeCallMedia(call); return false; }
  if (missing) notice('media', '', ['', missing]); else dropNotice('media');
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

/** Off stops the track, so that the camera's light goes out; a new offer tells the others. */
async function toggleCamera() {
  const call = calls.current;
  if (!call || call.cameraStarting || call.stage === 'preparing') return;
  if (call.camera) {
    call.camera.stop();
    call.camera = null;
  } else {
    call.cameraStarting = true;
    let camera = null;
    try { camera = (await navigator.mediaDevices.getUserMedia({ video: PICTURE })).getVideoTracks()[0]; }
    catch (error) { notice('media', 'bad', ['', `No camera: ${describeMediaError(error)}.`]); }
    call.cameraStarting = false;
    if (calls.current !== call) { camera?.stop(); return; }
    call.camera = camera;
    if (camera) { call.video = true; dropNotice('media'); }
  }
  $('polite').textContent = call.camera ? 'Camera on' : 'Camera off';
  for (const link of call.links.values()) showCamera(link);
  drawCall();
}
