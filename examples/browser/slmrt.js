// A worker that runs slmrt (GOOS=js GOARCH=wasm) on one file: a message
// {blob, name, args} is answered by {code, stdout, stderr}. The file system that
// the program sees has that file and nothing else, read-only; it is read in
// pieces, where the program wants them.
"use strict";

const output = {1: "", 2: ""};
let file, fileName;

function fail(code) {
  const err = new Error(code);
  err.code = code;
  return err;
}

const stat = () => ({
  dev: 0, ino: 1, mode: 0o100444, nlink: 1, uid: 0, gid: 0, rdev: 0, size: file.size, blksize: 4096,
  blocks: Math.ceil(file.size / 512), atimeMs: 0, mtimeMs: 0, ctimeMs: 0, isDirectory: () => false,
});

const decoders = {1: new TextDecoder(), 2: new TextDecoder()};
const descriptors = new Map(); // open descriptor to position
let next = 3;

// What Go's syscall package calls under js: the functions of Node's fs that
// reading one file needs.
globalThis.fs = {
  constants: {O_RDONLY: 0, O_WRONLY: 1, O_RDWR: 2, O_CREAT: 64, O_EXCL: 128, O_TRUNC: 512, O_APPEND: 1024, O_DIRECTORY: 65536},
  writeSync(fd, data) {
    output[fd] += decoders[fd].decode(data, {stream: true});
    return data.length;
  },
  write(fd, data, offset, length, position, done) {
    if (!(fd in output)) return done(fail("EBADF"));
    done(null, this.writeSync(fd, data.subarray(offset, offset + length)));
  },
  open(path, flags, mode, done) {
    if (path !== fileName && path !== "/" + fileName) return done(fail("ENOENT"));
    if (flags & 3) return done(fail("EROFS"));
    descriptors.set(next, 0);
    done(null, next++);
  },
  read(fd, buffer, offset, length, position, done) {
    if (!descriptors.has(fd)) return done(fail("EBADF"));
    const from = position ?? descriptors.get(fd);
    file.slice(from, from + length).arrayBuffer().then((data) => {
      buffer.set(new Uint8Array(data), offset);
      if (position === null || position === undefined) descriptors.set(fd, from + data.byteLength);
      done(null, data.byteLength);
    }, () => done(fail("EIO")));
  },
  fstat(fd, done) { descriptors.has(fd) ? done(null, stat()) : done(fail("EBADF")); },
  stat(path, done) { path === fileName || path === "/" + fileName ? done(null, stat()) : done(fail("ENOENT")); },
  lstat(path, done) { this.stat(path, done); },
  close(fd, done) { descriptors.delete(fd) ? done(null) : done(fail("EBADF")); },
  fsync(fd, done) { done(null); },
};
for (const name of ["chmod", "chown", "fchmod", "fchown", "ftruncate", "lchown", "link", "mkdir", "readdir", "readlink", "rename", "rmdir", "symlink", "truncate", "unlink", "utimes"]) {
  globalThis.fs[name] = (...args) => args.at(-1)(fail("EROFS"));
}
globalThis.process = {getuid: () => -1, getgid: () => -1, geteuid: () => -1, getegid: () => -1, getgroups() { throw fail("ENOSYS"); },
  pid: -1, ppid: -1, umask() { throw fail("ENOSYS"); }, cwd: () => "/", chdir() { throw fail("ENOSYS"); }};

importScripts("wasm_exec.js"); // of the Go that built slmrt.wasm

onmessage = async ({data: {blob, name, args}}) => {
  file = blob;
  fileName = name;
  const go = new Go();
  let code = 0;
  go.argv = ["slmrt", ...args];
  go.exit = (c) => { code = c; };
  try {
    const {instance} = await WebAssembly.instantiateStreaming(fetch("slmrt.wasm"), go.importObject);
    await go.run(instance);
  } catch (err) {
    code = code || 1;
    output[2] += String(err);
  }
  postMessage({code, stdout: output[1], stderr: output[2]});
};
