// Package powercut is a disk whose power can be cut.
//
// The disk is a file in a file system of our own (FUSE) below a loop device,
// with ext4 on it. What is written stays volatile until the device is flushed:
// the loop device turns a flush into fsync(2) of its file, and that is what
// makes writes durable here. Cut keeps every durable sector and a random part
// of the volatile ones, each as a whole, as a drive without power protection
// does; the next Mount finds that image and replays its journal.
//
// It can be slow, and it can lie: with IgnoreFlush nothing becomes durable any
// more, which is how a test proves that a cut loses what was not flushed.
//
// It needs root, /dev/fuse and a free loop device.
package powercut
