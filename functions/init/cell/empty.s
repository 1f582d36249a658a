// This file lets calls_linux.go declare functions without a body.
