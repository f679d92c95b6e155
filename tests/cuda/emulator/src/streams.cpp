// Streams and events. In the late mode a task runs only when somebody waits for it, and waiting for an event
// runs one stream up to it and nothing else: a missing wait gives wrong numbers.
#include <algorithm>

#include "device.h"

void Stream::run_until(size_t mark) {
  while (done < mark && !waiting.empty()) {
    Task task = std::move(waiting.front());
    waiting.pop_front();
    done++;
    task();
  }
}

Stream* Device::stream_of(void* handle) {
  return handle == nullptr || handle == cudaStreamLegacy ? &legacy : static_cast<Stream*>(handle);
}

void Device::run_all() {
  for (size_t i = streams.size(); i-- > 0;) streams[i]->run();
}

// What is in `from` by now happens before whatever is queued in `to` from now on.
static void order_after(Stream* to, Stream* from) {
  const size_t mark = from->queued;
  if (from->done < mark) to->push([=] { from->run_until(mark); });
}

void Device::enqueue(Stream* stream, Task task) {
  if (stream->capture) {
    counters.captured++;
    stream->capture->tasks.push_back(std::move(task));
    return;
  }
  if (stream == &legacy) {
    for (Stream* other : streams) {
      if (other->blocking && other != stream) order_after(stream, other);
    }
  } else if (stream->blocking) {
    order_after(stream, &legacy);
  }
  stream->push(std::move(task));
  if (!settings.late) stream->run();
}

extern "C" void emulator_enqueue(void* stream, Task* task) {
  LOCK;
  Device& device = current_device();
  device.enqueue(device.stream_of(stream), std::move(*task));
  delete task;
}

// ---- streams

RUNTIME(cudaStreamCreateWithFlags)(cudaStream_t* stream, unsigned flags) {
  LOCK;
  Stream* created = new Stream;  // never deleted: events point at it
  created->blocking = !(flags & cudaStreamNonBlocking);
  current_device().streams.push_back(created);
  *stream = reinterpret_cast<cudaStream_t>(created);
  return cudaSuccess;
}
RUNTIME(cudaStreamCreate)(cudaStream_t* stream) { return emulated_cudaStreamCreateWithFlags(stream, 0); }
RUNTIME(cudaStreamCreateWithPriority)(cudaStream_t* stream, unsigned flags, int) {
  return emulated_cudaStreamCreateWithFlags(stream, flags);
}
RUNTIME(cudaStreamDestroy)(cudaStream_t handle) {
  LOCK;
  Device& device = current_device();
  Stream* stream = device.stream_of(handle);
  stream->run();
  device.streams.erase(std::remove(device.streams.begin(), device.streams.end(), stream),
                       device.streams.end());
  return cudaSuccess;
}
RUNTIME(cudaStreamSynchronize)(cudaStream_t handle) {
  LOCK;
  Device& device = current_device();
  Stream* stream = device.stream_of(handle);
  if (device.forbidden("cudaStreamSynchronize", stream)) return last_error;
  note("host waits for a stream");
  counters.waits++;
  stream->run();
  return cudaSuccess;
}
RUNTIME(cudaDeviceSynchronize)() {
  LOCK;
  Device& device = current_device();
  if (device.forbidden("cudaDeviceSynchronize")) return last_error;
  counters.waits++;
  device.run_all();
  return cudaSuccess;
}
RUNTIME(cudaStreamQuery)(cudaStream_t stream) {
  LOCK;
  return current_device().stream_of(stream)->waiting.empty() ? cudaSuccess : cudaErrorNotReady;
}
RUNTIME(cudaStreamGetFlags)(cudaStream_t stream, unsigned* flags) {
  *flags = current_device().stream_of(stream)->blocking ? cudaStreamDefault : cudaStreamNonBlocking;
  return cudaSuccess;
}
RUNTIME(cudaStreamGetPriority)(cudaStream_t, int* priority) { return *priority = 0, cudaSuccess; }
RUNTIME(cudaLaunchHostFunc)(cudaStream_t stream, cudaHostFn_t function, void* data) {
  LOCK;
  Device& device = current_device();
  device.enqueue(device.stream_of(stream), [=] { function(data); });
  return cudaSuccess;
}

// ---- events

static Event* event_of(cudaEvent_t handle) { return reinterpret_cast<Event*>(handle); }

RUNTIME(cudaEventCreateWithFlags)(cudaEvent_t* event, unsigned) {
  *event = reinterpret_cast<cudaEvent_t>(new Event);
  return cudaSuccess;
}
RUNTIME(cudaEventCreate)(cudaEvent_t* event) { return emulated_cudaEventCreateWithFlags(event, 0); }
RUNTIME(cudaEventDestroy)(cudaEvent_t event) {
  LOCK;
  delete event_of(event);
  return cudaSuccess;
}
RUNTIME(cudaEventRecord)(cudaEvent_t event, cudaStream_t handle) {
  LOCK;
  static long recorded = 0;
  Stream* stream = current_device().stream_of(handle);
  *event_of(event) = {stream, stream->queued, stream->capture != nullptr, ++recorded};
  note("record " + std::to_string(recorded));
  return cudaSuccess;
}
RUNTIME(cudaEventSynchronize)(cudaEvent_t handle) {
  LOCK;
  const Event* event = event_of(handle);
  if (event->captured && current_device().forbidden("cudaEventSynchronize")) return last_error;
  note("host waits for an event");
  counters.waits++;
  if (event->stream) event->stream->run_until(event->mark);
  return cudaSuccess;
}
RUNTIME(cudaEventQuery)(cudaEvent_t handle) {
  LOCK;
  const Event* event = event_of(handle);
  return !event->stream || event->stream->done >= event->mark ? cudaSuccess : cudaErrorNotReady;
}
RUNTIME(cudaEventElapsedTime)(float* ms, cudaEvent_t, cudaEvent_t) { return *ms = 1, cudaSuccess; }
RUNTIME(cudaEventElapsedTime_v2)(float* ms, cudaEvent_t, cudaEvent_t) { return *ms = 1, cudaSuccess; }
RUNTIME(cudaStreamWaitEvent)(cudaStream_t handle, cudaEvent_t awaited, unsigned) {
  LOCK;
  Device& device = current_device();
  Stream* stream = device.stream_of(handle);
  const Event event = *event_of(awaited);
  note("wait " + std::to_string(event.number));
  if (!event.stream || event.stream == stream) return cudaSuccess;
  if (stream->capture || event.captured) {
    stream->spoiled = true;
    return refuse(cudaErrorStreamCaptureIsolation, "an event joins a capture and something outside of it");
  }
  device.enqueue(stream, [=] { event.stream->run_until(event.mark); });
  return cudaSuccess;
}
