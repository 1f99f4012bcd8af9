package semel

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"reflect"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// Options are the engine's choices; the zero value is fit for production.
type Options struct {
	Logger *slog.Logger // nil means slog.Default()
	// Window is how long a full answer is kept for repeats; 0 means 7 days.
	Window time.Duration
	// Tombstone is how long after that a late repeat is still recognised and
	// refused; 0 means 400 days.
	Tombstone time.Duration
	// Backlog is how many commands may wait for their group before more are
	// refused with [ErrOverloaded]; 0 means 4096.
	Backlog int
	// TenantBacklog is how many of one tenant's commands may wait, for their
	// group or accepted for their turn, before more of that tenant are refused
	// with [ErrOverloaded]; 0 means 10,000. What is accepted is counted about
	// once a second.
	TenantBacklog int
	// Group is the most operations in one transaction; 0 means 128.
	Group int
}

func (o Options) withDefaults() Options {
	o.Logger = cmp.Or(o.Logger, slog.Default())
	o.Window = cmp.Or(o.Window, 7*24*time.Hour)
	o.Tombstone = cmp.Or(o.Tombstone, 400*24*time.Hour)
	o.Backlog = cmp.Or(o.Backlog, 4096)
	o.TenantBacklog = cmp.Or(o.TenantBacklog, 10_000)
	o.Group = cmp.Or(o.Group, 128)
	return o
}

// An Engine runs commands against one store. Register every handler and
// projection before [Engine.Run]; all other methods may be called concurrently.
type Engine[Tx any] struct {
	store   Store[Tx]
	options Options
	log     *slog.Logger
	stats   counters

	mu          sync.Mutex // guards what registration fills, until Run
	running     bool
	commands    map[string]*definition[Tx]
	projections []*projection[Tx]
	kinds       map[reflect.Type]eventKind

	ready    chan struct{} // closed once commands are taken
	draining chan struct{} // closed when no more commands are taken

	intake    *intake[Tx]     // commands that callers wait for
	accepted  acceptedCount   // by tenant
	claimed   chan *task[Tx]  // operations that the runner has claimed
	turn      chan struct{}   // held by who runs a group
	group     []*task[Tx]     // room for one, of who has the turn
	work      context.Context // of groups, whoever runs them; set by Run, it never ends
	wake      chan struct{}   // something may be due
	hub       *hub
	followers []*follower[Tx]
	completed atomic.Int64 // up to here, what all required projections show is completed
	heard     atomic.Int64 // up to here, watchers were told of outcomes
}

// New returns an engine on a store.
func New[Tx any](store Store[Tx], o *Options) *Engine[Tx] {
	if o == nil {
		o = &Options{}
	}
	options := o.withDefaults()
	return &Engine[Tx]{
		store:    store,
		options:  options,
		log:      options.Logger,
		commands: make(map[string]*definition[Tx]),
		kinds:    make(map[reflect.Type]eventKind),
		ready:    make(chan struct{}),
		draining: make(chan struct{}),
		intake:   newIntake[Tx](options.Backlog, options.TenantBacklog),
		claimed:  make(chan *task[Tx], options.Group),
		turn:     make(chan struct{}, 1),
		group:    make([]*task[Tx], 0, options.Group),
		wake:     make(chan struct{}, 1),
		hub:      newHub(),
	}
}

func (e *Engine[Tx]) register(f func()) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.running {
		panic("semel: handlers, projections and events are registered before the engine runs")
	}
	f()
}

// Run takes and runs commands until ctx ends. It then takes no more, finishes
// what it has begun, and returns nil; accepted operations that were not begun
// stay in the store for the next run. An error means that it could not start.
// Errors of the store while it runs are logged and tried again. Run may be
// called once.
func (e *Engine[Tx]) Run(ctx context.Context) error {
	if err := e.start(ctx); err != nil {
		return fmt.Errorf("starting the engine: %w", err)
	}
	// What has begun is finished although ctx has ended: leases bound it.
	work := context.WithoutCancel(ctx)
	e.work = work
	following, stopFollowing := context.WithCancel(work)
	defer stopFollowing()
	var takers, executor, followers sync.WaitGroup
	stop := make(chan struct{})

	takers.Go(func() { e.claimUntil(ctx, work) })
	takers.Go(func() { e.sweepUntil(ctx) })
	takers.Go(func() { e.listenUntil(ctx) })
	executor.Go(func() { e.execute(stop) })
	for _, f := range e.followers {
		followers.Go(func() { e.followUntil(following, f) })
	}
	close(e.ready)

	<-ctx.Done()
	e.intake.close()
	close(e.draining)
	takers.Wait() // for what they have claimed, which needs the executor
	close(stop)
	executor.Wait()
	stopFollowing()
	followers.Wait()
	e.catchUp(work)
	e.hub.close()
	return nil
}

func (e *Engine[Tx]) start(ctx context.Context) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.running {
		return errors.New("it was started before")
	}
	if err := e.openFollowers(ctx); err != nil {
		return err
	}
	e.running = true
	return nil
}

// Ready is closed once the engine takes commands.
func (e *Engine[Tx]) Ready() <-chan struct{} { return e.ready }

// Draining is closed when the engine takes no more commands.
func (e *Engine[Tx]) Draining() <-chan struct{} { return e.draining }

// Commands lists the names that have a handler, sorted.
func (e *Engine[Tx]) Commands() []string {
	e.mu.Lock()
	defer e.mu.Unlock()
	names := make([]string, 0, len(e.commands))
	for name := range e.commands {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// Head returns the last position of the log.
func (e *Engine[Tx]) Head(ctx context.Context) (int64, error) {
	return available(e.store.Head(ctx))
}

// Horizon returns the position up to which outcomes are no longer all kept.
func (e *Engine[Tx]) Horizon(ctx context.Context) (int64, error) {
	return available(e.store.Horizon(ctx))
}

func available(position int64, err error) (int64, error) {
	if err != nil {
		return 0, fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	return position, nil
}

// Watch wakes the caller when operations of one tenant and principal change.
func (e *Engine[Tx]) Watch(tenant, principal string) *Watch {
	return e.hub.watch(scope{tenant, principal})
}

// Stats counts since the engine was made what it did, for benchmarks and
// metrics.
type Stats struct {
	Commits  int64 // transactions committed, each one flush
	Executed int64 // handlers' calls whose outcome was committed
	Replayed int64 // repeats answered from what is stored
	Careful  int64 // operations taken out of their group to run apart
}

type counters struct{ commits, executed, replayed, careful atomic.Int64 }

// Stats returns the counts so far.
func (e *Engine[Tx]) Stats() Stats {
	return Stats{
		Commits:  e.stats.commits.Load(),
		Executed: e.stats.executed.Load(),
		Replayed: e.stats.replayed.Load(),
		Careful:  e.stats.careful.Load(),
	}
}

func (e *Engine[Tx]) nudge() {
	select {
	case e.wake <- struct{}{}:
	default:
	}
}

// pause waits for d or until ctx ends, which it reports.
func pause(ctx context.Context, d time.Duration) (ended bool) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return false
	case <-ctx.Done():
		return true
	}
}
