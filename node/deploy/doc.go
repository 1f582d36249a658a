// Package deploy has the functions of a node serve.
//
// A deploy imports the image, checks the function against this node (admit.go),
// starts one instance of the new version, claims its lines, writes it to the
// store (records.go) and only then switches (deploy.go). Events that wait go to
// the new version, those that run finish on the old one (versions.go). A trigger
// that did not change keeps its source, so no message and no session is lost
// (bind.go); the session of one that is gone is ended at its broker, also if
// that is away (sessions.go). A removal is first marked in the store, so that it
// is finished after a crash (remove.go).
//
// The package knows no node: what it needs of one is in Config and ports.go.
package deploy
