// Package cross makes deployable images of functions: from a source folder, on
// any machine with the language's own tools, to an OCI image index with one
// image for each platform of the gateways.
//
//	manifest      functions/manifest reads edgefn.yaml
//	source.go     the author's files, without what .edgefnignore names
//	overlay.go    platform/OS-ARCH[-VARIANT]/, laid over them
//	native.go     machine code that does not serve a platform is refused
//	python.go     requirements.txt through pip, for each platform; wheels.go, which are missing
//	nodejs.go     package-lock.json through npm
//	golang.go     the program, by the go command, with the SDK that edgefn carries
//	base.go       image: an OCI layout, a tar of one, or a registry
//	layer.go      files to layers, image.go layers to an index
//	scaffold.go   edgefn init
//
// # Platforms
//
// An index has an image for each platform named: linux/amd64, linux/arm64,
// linux/arm/v7 and linux/arm/v6. There is no emulator and no compiler in it but
// Go's. Programs in go are compiled for each. Code in Python and JavaScript, and
// packages with no native part, are layers that all images share. Of what is
// native each platform gets its own:
//
//	wheels/                      Python wheels, which pip chooses from by platform; with this
//	                             folder it uses no network
//	platform/linux-arm64/        files that are laid over the common ones, in the same places:
//	platform/linux-arm-v7/ ...   extension modules, addons, programs; the folder itself is in
//	                             no image, and linux-arm-v6 serves arm/v7 if that has none
//
// A file counts as native if it is an ELF file that may be executed or is named
// as a library or addon. One for another machine is refused unless the same
// package has one of that name for this machine: nothing that cannot be loaded
// is sent to a gateway. Wheels are chosen for the version of python that the
// node has, where it is known.
//
// # Images
//
// An image holds the author's files under functions.AppDir and nothing of
// edgefn: the node brings its own shims. Its layers are, from the lowest, those
// of the base, the dependencies, large files, the code, the platform's own files, so that a
// change of code moves only the code: edgefn deploy asks the node which blobs it
// has and sends the others.
//
// The same source makes the same digest: files are sorted, have no times and no
// owners, and one of two modes; what tools leave behind that differs between
// runs is removed. The function's specification is a label of each image and an
// annotation of the index, so the digest covers it too, and is the version.
//
// Layers wait in files without a name, so that an interrupted build leaves
// nothing behind.
package cross
