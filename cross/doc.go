// Package cross makes deployable images of functions: from a source folder, on
// any machine with the language's own tools, to an OCI image index with one
// image for each platform of the gateways.
//
//	manifest      functions/manifest reads edgefn.yaml
//	source.go     the author's files, without what .edgefnignore names
//	python.go     requirements.txt through pip, for each platform
//	nodejs.go     package-lock.json through npm
//	golang.go     the program, by the go command, with the SDK that edgefn carries
//	base.go       image: an OCI layout, a tar of one, or a registry
//	layer.go      files to layers, image.go layers to an index
//	scaffold.go   edgefn init
//
// An image holds the author's files under functions.AppDir and nothing of
// edgefn: the node brings its own shims. Its layers are, from the lowest, those
// of the base, the dependencies, the code, so that a change of code moves only
// the code.
//
// The same source makes the same digest: files are sorted, have no times and no
// owners, and one of two modes; what tools leave behind that differs between
// runs is removed. The function's specification is a label of each image and an
// annotation of the index, so the digest covers it too, and is the version.
//
// Layers wait in files without a name, so that an interrupted build leaves
// nothing behind.
package cross
