// What costs most per chunk, without Python objects per chunk: taking bytes and kernel timestamps
// off many sockets, and reading the framing of plain HTTP chunks. Optional: loadtests/stream/
// sources.py does the first in Python, and llhttp the second, with the same results.
//
// Everything here runs under the interpreter's lock and never blocks. Linux only; stable ABI.

#define PY_SSIZE_T_CLEAN
#define Py_LIMITED_API 0x030B0000
#define _GNU_SOURCE
#include <Python.h>
#include <errno.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define RECEIVE_BYTES 65536
#define BATCH 256
#define SPARE_BYTES 4096  // and receives, room that a source keeps between two answers
#define SPARE_RECEIVES 64
#define NS_PER_S 1000000000LL

static char scratch[RECEIVE_BYTES];  // receives land here first; the lock guards it

static int64_t read_clock(clockid_t clock) {
    struct timespec now;
    clock_gettime(clock, &now);
    return now.tv_sec * NS_PER_S + now.tv_nsec;
}

// ---- Source: what one socket gave and nobody has looked at

typedef struct {
    size_t end;  // of the bytes so far
    int64_t stamp_ns;  // CLOCK_REALTIME
} Receive;

typedef struct {
    PyObject_HEAD
    int fileno;
    int epoll;  // that watches it edge-triggered; -1: none
    char eager, closed, stalled;
    int error;  // errno
    size_t bound;  // bytes that may wait
    char *bytes;
    size_t size, capacity;
    Receive *receives;
    size_t count, slots;
} Source;

static PyTypeObject *source_type;

static int grow(void **memory, size_t *capacity, size_t needed, size_t item) {
    if (needed <= *capacity) return 0;
    size_t larger = *capacity ? *capacity + *capacity / 2 : 16;
    if (larger < needed) larger = needed;
    void *moved = realloc(*memory, larger * item);
    if (moved == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    *memory = moved;
    *capacity = larger;
    return 0;
}

static void spare(void **memory, size_t *capacity, size_t most) {
    if (*capacity <= most) return;
    free(*memory);
    *memory = NULL;
    *capacity = 0;
}

static int keep(Source *self, size_t length, int64_t stamp_ns) {
    if (grow((void **)&self->bytes, &self->capacity, self->size + length, 1) < 0 ||
        grow((void **)&self->receives, &self->slots, self->count + 1, sizeof(Receive)) < 0)
        return -1;
    if (length > 0) memcpy(self->bytes + self->size, scratch, length);
    self->size += length;
    self->receives[self->count++] = (Receive){self->size, stamp_ns};
    return 0;
}

static int64_t stamp_of(struct msghdr *message) {
    for (struct cmsghdr *note = CMSG_FIRSTHDR(message); note; note = CMSG_NXTHDR(message, note)) {
        if (note->cmsg_level == SOL_SOCKET && note->cmsg_type == SCM_TIMESTAMPNS &&
            note->cmsg_len >= CMSG_LEN(sizeof(struct timespec))) {
            struct timespec stamp;
            memcpy(&stamp, CMSG_DATA(note), sizeof stamp);
            return stamp.tv_sec * NS_PER_S + stamp.tv_nsec;
        }
    }
    return read_clock(CLOCK_REALTIME);
}

// Receive until the socket is empty or the bound is reached. 1: there is reason to look; -1: error.
// A receive that did not fill its buffer emptied the socket, unless something stands behind what it
// brought: the end, which must be received too, because no further edge will tell of it, or urgent
// data, before which a receive stops. Then `more`.
static int drain(Source *self, int more) {
    int reason = 0;
    while (!self->closed) {
        if (self->size >= self->bound) {
            self->stalled = 1;
            return 1;
        }
        _Alignas(struct cmsghdr) char notes[CMSG_SPACE(sizeof(struct timespec))];
        struct iovec place = {scratch, sizeof scratch};
        struct msghdr message = {.msg_iov = &place, .msg_iovlen = 1, .msg_control = notes,
                                 .msg_controllen = sizeof notes};
        ssize_t length = recvmsg(self->fileno, &message, MSG_DONTWAIT);
        if (length < 0) {
            if (errno == EINTR) continue;
            if (errno == EAGAIN || errno == EWOULDBLOCK) return reason;
            self->error = errno;
            self->closed = 1;
            return 1;
        }
        if (keep(self, (size_t)length, stamp_of(&message)) < 0) return -1;
        self->closed = length == 0;
        // The last four bytes may be spread over receives: then the last of them is a short one.
        if (self->eager || length < 4 || self->size >= self->bound ||
            memcmp(scratch + length - 4, "\r\n\r\n", 4) == 0)
            reason = 1;
        if (length < RECEIVE_BYTES && !more) return reason;
    }
    return reason;
}

// Edge-triggered: level-triggered, the kernel looks at each socket once more after it was drained.
static int watch(int epoll, int operation, int fileno) {
    struct epoll_event event = {.events = EPOLLIN | EPOLLPRI | EPOLLRDHUP | EPOLLET, .data.fd = fileno};
    return epoll_ctl(epoll, operation, fileno, &event);
}

static PyObject *Source_new(PyTypeObject *type, PyObject *args, PyObject *kwargs) {
    int fileno;
    Py_ssize_t bound;
    static char *names[] = {"fileno", "bound", NULL};
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "in:Source", names, &fileno, &bound))
        return NULL;
    allocfunc alloc = (allocfunc)PyType_GetSlot(type, Py_tp_alloc);
    Source *self = (Source *)alloc(type, 0);
    if (self == NULL) return NULL;
    self->fileno = fileno;
    self->epoll = -1;
    self->eager = 1;
    self->bound = bound < 1 ? 1 : (size_t)bound;
    return (PyObject *)self;
}

static void Source_dealloc(PyObject *object) {
    Source *self = (Source *)object;
    PyTypeObject *type = Py_TYPE(object);
    free(self->bytes);
    free(self->receives);
    ((freefunc)PyType_GetSlot(type, Py_tp_free))(self);
    Py_DECREF(type);
}

static PyObject *Source_drain(Source *self, PyObject *Py_UNUSED(nothing)) {
    int reason = drain(self, 1);
    return reason < 0 ? NULL : PyBool_FromLong(reason);
}

// (bytes, end of each receive, moment of each receive); the source begins anew.
static PyObject *Source_take(Source *self, PyObject *offset) {
    int64_t offset_ns = PyLong_AsLongLong(offset);
    if (offset_ns == -1 && PyErr_Occurred()) return NULL;
    PyObject *data = PyBytes_FromStringAndSize(self->bytes, (Py_ssize_t)self->size);
    PyObject *ends = PyList_New((Py_ssize_t)self->count);
    PyObject *moments = PyList_New((Py_ssize_t)self->count);
    if (!data || !ends || !moments) goto failed;
    for (size_t i = 0; i < self->count; i++) {
        PyObject *end = PyLong_FromSize_t(self->receives[i].end);
        if (!end || PyList_SetItem(ends, (Py_ssize_t)i, end) < 0) goto failed;
        PyObject *moment = PyLong_FromLongLong(self->receives[i].stamp_ns - offset_ns);
        if (!moment || PyList_SetItem(moments, (Py_ssize_t)i, moment) < 0) goto failed;
    }
    PyObject *taken = PyTuple_Pack(3, data, ends, moments);
    if (!taken) goto failed;
    self->size = self->count = 0;
    spare((void **)&self->bytes, &self->capacity, SPARE_BYTES);
    spare((void **)&self->receives, &self->slots, SPARE_RECEIVES);
    if (self->stalled && self->epoll >= 0)  // its edge has passed: let it come again
        watch(self->epoll, EPOLL_CTL_MOD, self->fileno);
    self->stalled = 0;
    Py_DECREF(data);
    Py_DECREF(ends);
    Py_DECREF(moments);
    return taken;
failed:
    Py_XDECREF(data);
    Py_XDECREF(ends);
    Py_XDECREF(moments);
    return NULL;
}

static PyObject *Source_get_fileno(Source *self, void *Py_UNUSED(unused)) {
    return PyLong_FromLong(self->fileno);
}

static PyObject *Source_get_waiting(Source *self, void *Py_UNUSED(unused)) {
    return PyLong_FromSize_t(self->count);
}

static PyObject *Source_get_closed(Source *self, void *Py_UNUSED(unused)) {
    return PyBool_FromLong(self->closed);
}

static PyObject *Source_get_broken(Source *self, void *Py_UNUSED(unused)) {
    if (self->error == 0) Py_RETURN_NONE;
    return PyObject_CallFunction(PyExc_OSError, "is", self->error, strerror(self->error));
}

static PyObject *Source_get_eager(Source *self, void *Py_UNUSED(unused)) {
    return PyBool_FromLong(self->eager);
}

static int Source_set_eager(Source *self, PyObject *value, void *Py_UNUSED(unused)) {
    int eager = value ? PyObject_IsTrue(value) : 1;
    if (eager < 0) return -1;
    self->eager = (char)eager;
    return 0;
}

static PyMethodDef source_methods[] = {
    {"drain", (PyCFunction)Source_drain, METH_NOARGS, "Receive what is there."},
    {"take", (PyCFunction)Source_take, METH_O, "Hand over what was received, and begin anew."},
    {NULL},
};

static PyGetSetDef source_attributes[] = {
    {"fileno", (getter)Source_get_fileno, NULL, NULL, NULL},
    {"waiting", (getter)Source_get_waiting, NULL, NULL, NULL},
    {"closed", (getter)Source_get_closed, NULL, NULL, NULL},
    {"broken", (getter)Source_get_broken, NULL, NULL, NULL},
    {"eager", (getter)Source_get_eager, (setter)Source_set_eager, NULL, NULL},
    {NULL},
};

static PyType_Slot source_slots[] = {
    {Py_tp_doc, "One socket: what it received and nobody has looked at."},
    {Py_tp_new, Source_new},
    {Py_tp_dealloc, Source_dealloc},
    {Py_tp_methods, source_methods},
    {Py_tp_getset, source_attributes},
    {0, NULL},
};

static PyType_Spec source_spec = {
    .name = "loadtests.stream._drain.Source",
    .basicsize = sizeof(Source),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = source_slots,
};

// ---- Poller: finds the sockets that have something, and drains them

typedef struct {
    PyObject_HEAD
    int epoll;
    Source **sources;  // by file descriptor
    size_t slots;
} Poller;

static PyObject *Poller_new(PyTypeObject *type, PyObject *args, PyObject *kwargs) {
    static char *names[] = {NULL};
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, ":Poller", names)) return NULL;
    allocfunc alloc = (allocfunc)PyType_GetSlot(type, Py_tp_alloc);
    Poller *self = (Poller *)alloc(type, 0);
    if (self == NULL) return NULL;
    self->epoll = epoll_create1(EPOLL_CLOEXEC);
    if (self->epoll < 0) {
        PyErr_SetFromErrno(PyExc_OSError);
        Py_DECREF(self);
        return NULL;
    }
    return (PyObject *)self;
}

static void Poller_dealloc(PyObject *object) {
    Poller *self = (Poller *)object;
    PyTypeObject *type = Py_TYPE(object);
    for (size_t i = 0; i < self->slots; i++) {
        if (self->sources[i]) self->sources[i]->epoll = -1;
        Py_XDECREF((PyObject *)self->sources[i]);
    }
    free(self->sources);
    if (self->epoll >= 0) close(self->epoll);
    ((freefunc)PyType_GetSlot(type, Py_tp_free))(self);
    Py_DECREF(type);
}

static PyObject *Poller_add(Poller *self, PyObject *object) {
    if (!PyObject_TypeCheck(object, source_type)) {
        PyErr_SetString(PyExc_TypeError, "a Source is needed");
        return NULL;
    }
    Source *source = (Source *)object;
    size_t place = (size_t)source->fileno;
    if (source->fileno < 0) {
        PyErr_SetString(PyExc_ValueError, "the socket is closed");
        return NULL;
    }
    if (place < self->slots && self->sources[place] == source) Py_RETURN_NONE;
    size_t before = self->slots;
    if (grow((void **)&self->sources, &self->slots, place + 1, sizeof(Source *)) < 0) return NULL;
    memset(self->sources + before, 0, (self->slots - before) * sizeof(Source *));
    if (watch(self->epoll, EPOLL_CTL_ADD, source->fileno) < 0)
        return PyErr_SetFromErrno(PyExc_OSError);
    Source *former = self->sources[place];  // of a descriptor that was closed without remove()
    self->sources[place] = (Source *)Py_NewRef(object);
    if (former) former->epoll = -1;
    source->epoll = self->epoll;
    Py_XDECREF((PyObject *)former);
    Py_RETURN_NONE;
}

static PyObject *Poller_remove(Poller *self, PyObject *object) {
    if (!PyObject_TypeCheck(object, source_type)) {
        PyErr_SetString(PyExc_TypeError, "a Source is needed");
        return NULL;
    }
    Source *source = (Source *)object;
    size_t place = (size_t)source->fileno;
    if (source->fileno < 0 || place >= self->slots || self->sources[place] != source)
        Py_RETURN_NONE;
    self->sources[place] = NULL;
    source->epoll = -1;
    if (epoll_ctl(self->epoll, EPOLL_CTL_DEL, source->fileno, NULL) < 0)
        PyErr_SetFromErrno(PyExc_OSError);
    Py_DECREF(object);  // the poller's own reference: the caller holds another
    return PyErr_Occurred() ? NULL : Py_NewRef(Py_None);
}

// (sockets that had something, descriptors of those that there is reason to look at)
static PyObject *Poller_drain(Poller *self, PyObject *Py_UNUSED(nothing)) {
    struct epoll_event events[BATCH];
    int ready = epoll_wait(self->epoll, events, BATCH, 0);
    if (ready < 0) {
        if (errno != EINTR) return PyErr_SetFromErrno(PyExc_OSError);
        ready = 0;
    }
    PyObject *due = PyList_New(0);
    if (due == NULL) return NULL;
    for (int i = 0; i < ready; i++) {
        int fileno = events[i].data.fd;
        Source *source = (size_t)fileno < self->slots ? self->sources[fileno] : NULL;
        if (source == NULL) continue;
        int reason = drain(source, (events[i].events & ~(uint32_t)EPOLLIN) != 0);
        if (reason < 0) goto failed;
        if (!reason) continue;
        PyObject *number = PyLong_FromLong(fileno);
        int added = number ? PyList_Append(due, number) : -1;
        Py_XDECREF(number);
        if (added < 0) goto failed;
    }
    return Py_BuildValue("iN", ready, due);
failed:
    Py_DECREF(due);
    return NULL;
}

static PyMethodDef poller_methods[] = {
    {"add", (PyCFunction)Poller_add, METH_O, "Watch a source; harmless when repeated."},
    {"remove", (PyCFunction)Poller_remove, METH_O, "Watch it no longer."},
    {"drain", (PyCFunction)Poller_drain, METH_NOARGS, "Drain a batch of sources."},
    {NULL},
};

static PyType_Slot poller_slots[] = {
    {Py_tp_doc, "Drains the sockets that have something."},
    {Py_tp_new, Poller_new},
    {Py_tp_dealloc, Poller_dealloc},
    {Py_tp_methods, poller_methods},
    {0, NULL},
};

static PyType_Spec poller_spec = {
    .name = "loadtests.stream._drain.Poller",
    .basicsize = sizeof(Poller),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = poller_slots,
};

// ---- ChunkReader: the body of plain HTTP chunks

enum State { SIZE, SIZE_LF, DATA, DATA_CR, DATA_LF };
enum Problem { NONE, TOO_LARGE, MALFORMED };
#define MAX_DIGITS 7  // a chunk below 256 MiB

typedef struct {
    PyObject_HEAD
    PyObject *body;  // bytearray
    PyObject *body_ends, *body_s;  // lists
    int64_t zero_ns, last_ns, body_ns;
    Py_ssize_t limit, counted;
    enum State state;
    Py_ssize_t left;  // of the chunk: its size while that is read, then what is to come
    char line[MAX_DIGITS + 1];  // the size line so far
    int digits;
} ChunkReader;

static PyObject *ChunkReader_new(PyTypeObject *type, PyObject *args, PyObject *kwargs) {
    PyObject *body, *body_ends, *body_s;
    long long zero_ns, last_ns;
    Py_ssize_t limit;
    static char *names[] = {"body", "body_ends", "body_s", "zero_ns", "last_ns", "limit", NULL};
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "OOOLLn:ChunkReader", names, &body, &body_ends,
                                     &body_s, &zero_ns, &last_ns, &limit))
        return NULL;
    if (!PyByteArray_Check(body) || !PyList_Check(body_ends) || !PyList_Check(body_s)) {
        PyErr_SetString(PyExc_TypeError, "a bytearray and two lists are needed");
        return NULL;
    }
    allocfunc alloc = (allocfunc)PyType_GetSlot(type, Py_tp_alloc);
    ChunkReader *self = (ChunkReader *)alloc(type, 0);
    if (self == NULL) return NULL;
    self->body = Py_NewRef(body);
    self->body_ends = Py_NewRef(body_ends);
    self->body_s = Py_NewRef(body_s);
    self->zero_ns = zero_ns;
    self->last_ns = last_ns;
    self->limit = limit;
    self->counted = PyByteArray_Size(body);
    self->state = SIZE;
    return (PyObject *)self;
}

static void ChunkReader_dealloc(PyObject *object) {
    ChunkReader *self = (ChunkReader *)object;
    PyTypeObject *type = Py_TYPE(object);
    Py_XDECREF(self->body);
    Py_XDECREF(self->body_ends);
    Py_XDECREF(self->body_s);
    ((freefunc)PyType_GetSlot(type, Py_tp_free))(self);
    Py_DECREF(type);
}

static int hex_value(char c) {
    if (c >= '0' && c <= '9') return c - '0';
    c |= 0x20;
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

// One byte of framing. 0: it is not of a plain chunk, and llhttp is to judge.
static int step(ChunkReader *self, char c) {
    int value;
    switch (self->state) {
    case SIZE:
        if (c == '\r' && self->digits > 0) {
            self->state = SIZE_LF;
            return 1;
        }
        value = hex_value(c);
        if (value < 0 || self->digits == MAX_DIGITS) return 0;
        self->line[self->digits++] = c;
        self->left = self->left * 16 + value;
        return 1;
    case SIZE_LF:
        if (c != '\n' || self->left == 0) return 0;  // an empty chunk is the last one
        self->state = DATA;
        return 1;
    case DATA_CR:
        if (c != '\r') return 0;
        self->state = DATA_LF;
        return 1;
    case DATA_LF:
        if (c != '\n') return 0;
        self->state = SIZE;
        self->digits = 0;
        return 1;
    default:
        return 0;
    }
}

// Note a receive that brought bytes of the body.
static int note(ChunkReader *self, Py_ssize_t length) {
    self->counted = length;
    self->body_ns = self->last_ns;
    PyObject *end = PyLong_FromSsize_t(length);
    PyObject *moment = PyFloat_FromDouble((double)(self->last_ns - self->zero_ns) * 1e-9);
    int failed = !end || !moment || PyList_Append(self->body_ends, end) < 0 ||
                 PyList_Append(self->body_s, moment) < 0;
    Py_XDECREF(end);
    Py_XDECREF(moment);
    return failed ? -1 : 0;
}

static int item(PyObject *list, Py_ssize_t index, int64_t *value) {
    PyObject *number = PyList_GetItem(list, index);
    if (number == NULL) return -1;
    *value = PyLong_AsLongLong(number);
    return *value == -1 && PyErr_Occurred() ? -1 : 0;
}

// read(data, ends, stamps_ns, receive, at) -> (receive, at, problem): reads from there on, up to
// the first byte that is not of a plain chunk, or to the end (receive == len(ends)). A receive that
// was not read to its end is noted by who reads on. Malformed: the end of a chunk is none.
static PyObject *ChunkReader_read(ChunkReader *self, PyObject *args) {
    PyObject *bytes, *ends, *stamps;
    Py_ssize_t receive, at;
    if (!PyArg_ParseTuple(args, "SO!O!nn:read", &bytes, &PyList_Type, &ends, &PyList_Type, &stamps,
                          &receive, &at))
        return NULL;
    char *data;
    Py_ssize_t size, receives = PyList_Size(ends), before = PyByteArray_Size(self->body);
    if (PyBytes_AsStringAndSize(bytes, &data, &size) < 0) return NULL;
    if (PyList_Size(stamps) != receives || receive < 0 || at < 0 || at > size) {
        PyErr_SetString(PyExc_ValueError, "receives and stamps do not match");
        return NULL;
    }
    if (PyByteArray_Resize(self->body, before + size - at) < 0) return NULL;
    char *body = PyByteArray_AsString(self->body);
    Py_ssize_t length = before;
    enum Problem problem = NONE;
    int failed = 0, handed = 0;
    for (; receive < receives && !handed && problem == NONE; receive++) {
        int64_t end, stamp_ns, start = 0;
        if ((failed = item(ends, receive, &end) < 0 || item(stamps, receive, &stamp_ns) < 0 ||
                      (receive && item(ends, receive - 1, &start) < 0)))
            break;
        if (end == start || end > size || end < at) break;  // the end of the stream
        if (stamp_ns > self->last_ns) self->last_ns = stamp_ns;
        while (at < end) {
            if (self->state == DATA) {
                Py_ssize_t some = end - at < self->left ? end - at : self->left;
                memcpy(body + length, data + at, (size_t)some);
                length += some;
                at += some;
                if ((self->left -= some) == 0) self->state = DATA_CR;
            } else if (step(self, data[at])) {
                at++;
            } else {
                if (self->state == SIZE || self->state == SIZE_LF) handed = 1;
                else problem = MALFORMED;
                break;
            }
        }
        if (length > self->limit) problem = TOO_LARGE;
        if (handed && problem == NONE) break;
        if (length > self->counted && (failed = note(self, length) < 0)) break;
    }
    if (PyByteArray_Resize(self->body, length) < 0 || failed) return NULL;
    return Py_BuildValue("nni", receive, at, (int)problem);
}

// The size line that was read and belongs to what llhttp is to judge.
static PyObject *ChunkReader_get_begun(ChunkReader *self, void *Py_UNUSED(unused)) {
    if (self->state != SIZE && self->state != SIZE_LF) return PyBytes_FromStringAndSize(NULL, 0);
    char line[MAX_DIGITS + 1];
    memcpy(line, self->line, (size_t)self->digits);
    line[self->digits] = '\r';
    return PyBytes_FromStringAndSize(line, self->digits + (self->state == SIZE_LF));
}

static PyObject *ChunkReader_get_last_ns(ChunkReader *self, void *Py_UNUSED(unused)) {
    return PyLong_FromLongLong(self->last_ns);
}

static PyObject *ChunkReader_get_body_ns(ChunkReader *self, void *Py_UNUSED(unused)) {
    return PyLong_FromLongLong(self->body_ns);
}

static PyMethodDef chunk_reader_methods[] = {
    {"read", (PyCFunction)ChunkReader_read, METH_VARARGS, "Read on."},
    {NULL},
};

static PyGetSetDef chunk_reader_attributes[] = {
    {"begun", (getter)ChunkReader_get_begun, NULL, NULL, NULL},
    {"last_ns", (getter)ChunkReader_get_last_ns, NULL, NULL, NULL},
    {"body_ns", (getter)ChunkReader_get_body_ns, NULL, NULL, NULL},
    {NULL},
};

static PyType_Slot chunk_reader_slots[] = {
    {Py_tp_doc, "Reads the body of plain HTTP chunks."},
    {Py_tp_new, ChunkReader_new},
    {Py_tp_dealloc, ChunkReader_dealloc},
    {Py_tp_methods, chunk_reader_methods},
    {Py_tp_getset, chunk_reader_attributes},
    {0, NULL},
};

static PyType_Spec chunk_reader_spec = {
    .name = "loadtests.stream._drain.ChunkReader",
    .basicsize = sizeof(ChunkReader),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = chunk_reader_slots,
};

// ---- the module

static PyObject *wall_offset_ns(PyObject *Py_UNUSED(module), PyObject *Py_UNUSED(nothing)) {
    int64_t tightest = INT64_MAX, offset = 0;
    for (int i = 0; i < 3; i++) {
        int64_t before = read_clock(CLOCK_MONOTONIC);
        int64_t wall = read_clock(CLOCK_REALTIME);
        int64_t after = read_clock(CLOCK_MONOTONIC);
        if (after - before < tightest) {
            tightest = after - before;
            offset = wall - (before + (after - before) / 2);
        }
    }
    return PyLong_FromLongLong(offset);
}

static PyMethodDef functions[] = {
    {"wall_offset_ns", wall_offset_ns, METH_NOARGS,
     "CLOCK_REALTIME minus CLOCK_MONOTONIC, from the tightest of three readings."},
    {NULL},
};

static PyModuleDef definition = {
    PyModuleDef_HEAD_INIT,
    .m_name = "loadtests.stream._drain",
    .m_size = -1,
    .m_methods = functions,
};

static int add_type(PyObject *module, PyType_Spec *spec, PyTypeObject **kept) {
    PyObject *type = PyType_FromSpec(spec);
    if (type == NULL) return -1;
    if (kept) *kept = (PyTypeObject *)Py_NewRef(type);
    int failed = PyModule_AddType(module, (PyTypeObject *)type);
    Py_DECREF(type);
    return failed;
}

PyMODINIT_FUNC PyInit__drain(void) {
    PyObject *module = PyModule_Create(&definition);
    if (module == NULL) return NULL;
    if (add_type(module, &source_spec, &source_type) < 0 ||
        add_type(module, &poller_spec, NULL) < 0 ||
        add_type(module, &chunk_reader_spec, NULL) < 0 ||
        PyModule_AddIntConstant(module, "BATCH", BATCH) < 0) {
        Py_DECREF(module);
        return NULL;
    }
    return module;
}
