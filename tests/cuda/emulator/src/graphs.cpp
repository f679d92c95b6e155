// Graphs: what is captured is kept, and queued again. While a stream is captured nothing may be allocated,
// freed or waited for: stricter than CUDA, which lets some of it pass in its relaxed mode.
#include "device.h"

bool Device::forbidden(const char* what, Stream* stream) {
  if (!capturing || (stream && stream != capturing && stream != &legacy)) return false;
  capturing->spoiled = true;
  counters.notes++;
  refuse(cudaErrorStreamCaptureUnsupported, what);
  return true;
}

RUNTIME(cudaStreamBeginCapture)(cudaStream_t handle, cudaStreamCaptureMode) {
  LOCK;
  Device& device = current_device();
  Stream* stream = device.stream_of(handle);
  if (stream == &device.legacy)
    return refuse(cudaErrorStreamCaptureUnsupported, "a capture of the default stream");
  if (device.capturing) return refuse(cudaErrorIllegalState, "a second capture");
  stream->capture = std::make_unique<Graph>();
  stream->spoiled = false;
  device.capturing = stream;
  note("capture");
  return cudaSuccess;
}
RUNTIME(cudaStreamEndCapture)(cudaStream_t handle, cudaGraph_t* graph) {
  LOCK;
  Device& device = current_device();
  Stream* stream = device.stream_of(handle);
  *graph = nullptr;
  if (!stream->capture) return refuse(cudaErrorIllegalState, "the end of no capture");
  std::unique_ptr<Graph> captured = std::move(stream->capture);
  device.capturing = nullptr;
  if (stream->spoiled) return refuse(cudaErrorStreamCaptureInvalidated, "the end of a spoiled capture");
  *graph = reinterpret_cast<cudaGraph_t>(captured.release());
  return cudaSuccess;
}
RUNTIME(cudaStreamIsCapturing)(cudaStream_t handle, cudaStreamCaptureStatus* status) {
  LOCK;
  const Stream* stream = current_device().stream_of(handle);
  *status = !stream->capture  ? cudaStreamCaptureStatusNone
            : stream->spoiled ? cudaStreamCaptureStatusInvalidated
                              : cudaStreamCaptureStatusActive;
  return cudaSuccess;
}
RUNTIME(cudaGraphInstantiate)(cudaGraphExec_t* ready, cudaGraph_t graph, unsigned long long) {
  LOCK;
  if (current_device().forbidden("cudaGraphInstantiate")) return last_error;
  *ready = reinterpret_cast<cudaGraphExec_t>(new Graph(*reinterpret_cast<Graph*>(graph)));
  return cudaSuccess;
}
RUNTIME(cudaGraphDestroy)(cudaGraph_t graph) {
  delete reinterpret_cast<Graph*>(graph);
  return cudaSuccess;
}
RUNTIME(cudaGraphExecDestroy)(cudaGraphExec_t graph) {
  delete reinterpret_cast<Graph*>(graph);
  return cudaSuccess;
}
RUNTIME(cudaGraphUpload)(cudaGraphExec_t, cudaStream_t) { return cudaSuccess; }
RUNTIME(cudaGraphLaunch)(cudaGraphExec_t graph, cudaStream_t handle) {
  LOCK;
  Device& device = current_device();
  Stream* stream = device.stream_of(handle);
  counters.graph_launches++;
  note("launch");
  for (const Task& task : reinterpret_cast<Graph*>(graph)->tasks) device.enqueue(stream, task);
  return cudaSuccess;
}
