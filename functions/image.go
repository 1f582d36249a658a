package functions

// What an image of a function looks like to those who build it and to those
// who run it.
const (
	// ImageLabel is the key under which an image carries its Function as JSON:
	// a label in the config of each platform's image, and an annotation of the
	// index, so that the index digest, which is the version, covers it.
	ImageLabel = "org.edgefn.function"
	// AppDir is where the author's files are in the image.
	AppDir = "/app"
	// GoProgram is the program of a function of the go runtime.
	GoProgram = AppDir + "/function"
)
