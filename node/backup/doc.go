// Package backup copies a node into one file and brings a node back from it: all
// of its store, in which are its functions, their state, their dead letters and
// all that waits, and the images of the versions that it keeps.
//
// The file is a tar with these members, in this order:
//
//	backup.json           what is in it: Info
//	store.snapshot        the store, as store.Snapshotter writes it
//	images/               an OCI layout of all versions, which share their blobs
//	checksums             the SHA-256 of every member before it, as sha256sum has them
//
// so that one that is cut short has no checksums, and common tools can look into
// one and prove it: tar -xf FILE && sha256sum -c checksums. Nothing of a node's
// configuration is in it, and no secret but what functions put into their state.
//
// A restore is staged in the data folder of the node, below "restore". What is
// there as "backup.tar" is whole and checked, and the node's next start restores
// the store from it before it opens the store. From then on it is called
// "images.tar", until the images are imported and it is deleted. Each step is a
// rename, so that a start which is interrupted is finished by the next one.
//
// The package knows no node and no containerd: what it needs of them it is given.
package backup
