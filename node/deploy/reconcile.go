package deploy

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/edgefn/edgefn/functions"
	"github.com/edgefn/edgefn/node/settle/durable"
	"github.com/edgefn/edgefn/node/tasks"
)

// reconciler brings one function of this node to what the store says of it. What it
// does it does in one goroutine, Deployer.run; the rest of it is how others wait
// for that and take part in it.
type reconciler struct {
	name   string
	serial chan struct{} // capacity 1: held by who deploys, rolls back or removes
	wake   chan struct{} // capacity 1: look at the store again

	task  *tasks.Task // Deployer.run; guarded by Deployer.mu, as is users
	users int         // who deploys, rolls back or removes, and who waits for that

	mu        sync.Mutex
	state     state
	changed   chan struct{} // closed and replaced when state changes
	warm      *version      // of a deploy under way, which has checked it: run may take it
	suspended int           // deploys under way: run starts no version by itself
}

// state is how far a reconciler is.
type state struct {
	at       int64    // revision of the store that it has acted on
	version  string   // that is to serve; empty: the function is to go, or gone
	trying   bool     // a version is being started
	serving  bool     // version serves
	bound    bool     // and its triggers have their sources
	drained  bool     // and what it replaced has ended
	warnings []string // about its triggers
	gone     bool     // nothing of the function is left
	err      error    // why it does not serve, or is not gone
}

func newReconciler(name string) *reconciler {
	return &reconciler{name: name, serial: make(chan struct{}, 1), wake: make(chan struct{}, 1), changed: make(chan struct{})}
}

// nudge has run look at the store again.
func (rc *reconciler) nudge() {
	select {
	case rc.wake <- struct{}{}:
	default:
	}
}

// set changes the state and tells those who wait for it.
func (rc *reconciler) set(f func(s *state)) {
	rc.mu.Lock()
	defer rc.mu.Unlock()
	f(&rc.state)
	close(rc.changed)
	rc.changed = make(chan struct{})
}

// await waits until the state is as it should be.
func (rc *reconciler) await(ctx context.Context, reached func(s state) bool) (state, error) {
	for {
		rc.mu.Lock()
		s, changed := rc.state, rc.changed
		rc.mu.Unlock()
		if reached(s) {
			return s, nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return s, context.Cause(ctx)
		}
	}
}

// suspend has run start no version by itself until resume is called, and waits
// until it has ended what it had begun: there is one of a version at a time, and
// one that is to be replaced must not take its lines back.
func (rc *reconciler) suspend(ctx context.Context) (resume func(), err error) {
	rc.mu.Lock()
	rc.suspended++
	rc.mu.Unlock()
	rc.nudge()
	resume = func() {
		rc.mu.Lock()
		rc.suspended--
		rc.mu.Unlock()
		rc.nudge()
	}
	if _, err := rc.await(ctx, func(s state) bool { return !s.trying }); err != nil {
		resume()
		return nil, err
	}
	return resume, nil
}

// offer has run take a version, once the store says that it is to serve, that is
// checked already; nil takes the offer back. It returns what was offered and not
// taken.
func (rc *reconciler) offer(v *version) (left *version) {
	rc.mu.Lock()
	defer rc.mu.Unlock()
	left, rc.warm = rc.warm, v
	return left
}

// take takes the version that is offered, if it is this one.
func (rc *reconciler) take(digest string) *version {
	rc.mu.Lock()
	defer rc.mu.Unlock()
	if rc.warm == nil || rc.warm.Digest != digest {
		return nil
	}
	v := rc.warm
	rc.warm = nil
	return v
}

// mayTry reports whether a version may be started, and if so says that one is.
func (rc *reconciler) mayTry() bool {
	rc.mu.Lock()
	defer rc.mu.Unlock()
	if rc.suspended > 0 {
		return false
	}
	rc.state.trying = true
	return true
}

func (rc *reconciler) isSuspended() bool {
	rc.mu.Lock()
	defer rc.mu.Unlock()
	return rc.suspended > 0
}

// checkBackoff is for a version that does not start, imageBackoff for one whose
// image is not there yet.
var (
	checkBackoff = durable.Backoff{First: time.Second, Max: time.Minute}
	imageBackoff = durable.Backoff{First: time.Second, Max: 10 * time.Second}
)

// errNoImage: the image of a version is not on this node.
var errNoImage = errors.New("its image is not there: deploy it again")

// reconciling is what run knows.
type reconciling struct {
	rc   *reconciler
	f    *Deployment // nil: the function is not here
	want desired     // as read last
	read bool        // it was

	try    *attempt // to start a version; nil: none
	failed string   // version whose attempts failed
	tries  int      // so many times in a row
	err    error
	next   <-chan time.Time // the next try; nil: now
	down   bool             // the function was taken down,
	left   *Deployment      // and was this
}

// run has a function serve as the store says, until ctx is done or the function
// is gone.
func (d *Deployer) run(ctx context.Context, rc *reconciler) {
	f, _ := d.Lookup(rc.name)
	s := &reconciling{rc: rc, f: f}
	defer s.abandon()
	for stale, failures := true, 0; ; {
		var reread <-chan time.Time
		if stale {
			want, err := d.read(ctx, rc.name)
			switch {
			case ctx.Err() != nil:
				return
			case err == nil:
				s.want, s.read, stale, failures = want, true, false, 0
			default:
				failures++
				if failures == 1 {
					d.log.Warn("what a function should be cannot be read, trying again", logFunction, rc.name, logErr, err)
				}
				reread = time.After(durable.StoreBackoff.Wait(failures))
			}
		}
		if s.read && d.reconcile(ctx, s) {
			return
		}
		var ended chan struct{}
		if s.try != nil {
			ended = s.try.ended
		}
		select {
		case <-rc.wake:
			stale = true
		case <-reread:
		case <-ended:
		case <-s.next:
			s.next = nil
		case <-ctx.Done():
			return
		}
	}
}

// reconcile does what there is to do now, and reports whether the reconciler is over.
func (d *Deployer) reconcile(ctx context.Context, s *reconciling) (over bool) {
	if !s.want.there() {
		s.abandon()
		return d.teardown(ctx, s) && d.over(s.rc)
	}
	spec, known := s.want.find(s.want.Version)
	if s.f == nil {
		fn := spec.Function
		if !known {
			fn = functions.Defaults()
			fn.Name = s.rc.name
		}
		s.f = d.newDeployment(&s.want, &fn)
		s.down, s.left = false, nil
		s.reset()
	}
	s.f.follow(&s.want)
	if s.f.activeVersion() == s.want.Version {
		s.abandon()
		s.reset()
		d.dropImages(ctx, s.f)
		s.rc.set(func(t *state) {
			if !t.serving {
				*t = state{serving: true, bound: true, drained: true}
			}
			t.at, t.version, t.gone = s.want.at, s.want.Version, false
		})
		return false
	}
	if v := s.rc.take(s.want.Version); v != nil {
		s.abandon()
		d.switchTo(ctx, s, v, func() {})
		return false
	}
	if s.try != nil && s.try.version != spec.Version {
		s.abandon()
	}
	if s.failed != spec.Version {
		s.reset()
	}
	switch {
	case s.try != nil && s.try.over():
		if d.finish(ctx, s) {
			return false
		}
	case s.rc.isSuspended():
		s.abandon()
	case s.try == nil && s.next == nil && !s.f.isRetiring(spec.Version) && s.rc.mayTry():
		d.bindFirst(ctx, s.f)
		s.try = d.attempt(spec, known)
	}
	s.rc.set(func(t *state) {
		*t = state{at: s.want.at, version: s.want.Version, trying: s.try != nil, err: s.err}
	})
	return false
}

// reset forgets that a version did not start.
func (s *reconciling) reset() {
	s.failed, s.tries, s.err, s.next = "", 0, nil, nil
	s.f.setFailing("")
}

// finish takes the outcome of an attempt that is over, and reports whether its
// version serves.
func (d *Deployer) finish(ctx context.Context, s *reconciling) bool {
	v, err := s.try.v, s.try.err
	digest := s.try.version
	s.try = nil
	if err == nil {
		d.claims.Lock()
		if err = d.hold(v.Function); err == nil {
			d.switchTo(ctx, s, v, d.claims.Unlock)
			return true
		}
		d.claims.Unlock()
		v.stop()
	}
	s.failed, s.err = digest, err
	s.tries++
	backoff := checkBackoff
	if errors.Is(err, errNoImage) {
		backoff = imageBackoff
	}
	s.next = time.After(backoff.Wait(s.tries))
	why := failureText(err)
	if old := s.f.activeVersion(); old != "" {
		why = fmt.Sprintf("version %s does not start here, %s goes on: %s", digest, old, why)
	}
	s.f.setFailing(why)
	if s.tries == 1 {
		d.log.Error("function does not start, its events wait", logFunction, s.rc.name, logVersion, digest, logErr, err)
		d.cfg.Logs.Of(s.rc.name).Note(digest, "error", "", "the function does not start, its events wait: "+why)
	}
	return false
}

// switchTo has a version that is checked, and has its lines, serve in place of
// the one that does, whose events in work it lets end. switched is called once
// all can see that it serves.
func (d *Deployer) switchTo(ctx context.Context, s *reconciling, v *version, switched func()) {
	rc, at := s.rc, s.want.at
	old := s.f.activate(v)
	s.reset()
	rc.set(func(t *state) { *t = state{at: at, version: v.Digest, serving: true} })
	switched()
	d.log.Info("function serves", logFunction, rc.name, logVersion, v.Digest)
	warnings := d.bind(ctx, s.f, v.Function)
	rc.set(func(t *state) { t.bound, t.warnings = true, warnings })
	drained := func(ctx context.Context) {
		d.dropImages(ctx, s.f)
		rc.set(func(t *state) { t.drained = t.drained || t.version == v.Digest })
		rc.nudge() // it may wait for that
	}
	if old == nil {
		drained(ctx)
		return
	}
	s.f.retire(d.cfg.Spawn, old.Digest, func(ctx context.Context) { d.retire(ctx, old) }, drained)
}

// abandon ends the attempt that runs.
func (s *reconciling) abandon() {
	if s.try == nil {
		return
	}
	s.try.abandon()
	s.try = nil
	s.rc.set(func(t *state) { t.trying = false })
}

// attempt is one try to start a version.
type attempt struct {
	version string
	task    *tasks.Task
	ended   chan struct{} // closed when there is an outcome

	v   *version // that is checked
	err error
}

// over reports whether the attempt has an outcome.
func (a *attempt) over() bool {
	select {
	case <-a.ended:
		return true
	default:
		return false
	}
}

// abandon ends the attempt, and the version that it may have started.
func (a *attempt) abandon() {
	a.task.Stop()
	if a.v != nil {
		a.v.stop()
	}
}

// attempt starts a version in the background, up to where its handler is loaded.
func (d *Deployer) attempt(spec versionRecord, known bool) *attempt {
	a := &attempt{version: spec.Version, ended: make(chan struct{})}
	a.task = d.cfg.Spawn(func(ctx context.Context) {
		defer close(a.ended)
		a.v, a.err = d.start(ctx, spec, known)
	})
	return a
}

func (d *Deployer) start(ctx context.Context, spec versionRecord, known bool) (*version, error) {
	if !known {
		return nil, errors.New("the version's record is lost: deploy it again")
	}
	if there, err := d.cfg.Images.Has(ctx, spec.Version); err == nil && !there {
		return nil, fmt.Errorf("the image of version %s: %w", spec.Version, errNoImage)
	}
	if faults := d.cfg.Devices.Faults(&spec.Function, d.Specs()); len(faults) > 0 {
		return nil, errors.New(faults[0].String())
	}
	v, err := d.newVersion(&spec.Function, spec.Version)
	if err != nil {
		return nil, err
	}
	if err := d.checkVersion(ctx, v, defaultWait); err != nil {
		v.stop()
		return nil, err
	}
	return v, nil
}
