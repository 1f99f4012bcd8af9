package crash

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"testing"
	"time"
)

// results are what a run of random kills has counted.
type results struct {
	Commit     string    `json:"commit,omitempty"`
	Dirty      bool      `json:"dirty,omitempty"` // the tree differs from the commit
	Go         string    `json:"go"`
	Platform   string    `json:"platform"`
	Seed       uint64    `json:"seed,string"` // beyond what a reader that knows only doubles keeps
	Started    time.Time `json:"started"`
	Seconds    float64   `json:"seconds"`
	Rounds     int       `json:"rounds"`
	Kills      int       `json:"kills"`
	Busy       int       `json:"killsWithRequestsOpen"`
	Early      int       `json:"killsWhileStarting"` // besides those of the rounds
	Outcomes   int64     `json:"operationsAcknowledged"`
	Rejected   int64     `json:"rejected"`
	Accepted   int64     `json:"acceptedFirst"`
	Replayed   int64     `json:"replaysChecked"`
	Looked     int64     `json:"accountsReadAfterAnswers"`
	Violations int       `json:"violations"`
}

// TestRandomKills kills the program at random moments under load, round after
// round on the same file.
func TestRandomKills(t *testing.T) {
	t.Parallel()
	program, err := sound()
	if err != nil {
		t.Fatal(err)
	}
	rounds := *roundsFlag
	if testing.Short() && !given("crash.rounds") {
		rounds = 10
	}
	t.Logf("-crash.seed %d", seed())
	r := results{
		Go: runtime.Version(), Platform: runtime.GOOS + "/" + runtime.GOARCH,
		Seed: seed(), Started: time.Now().UTC().Truncate(time.Second),
	}
	r.Commit, r.Dirty = commit(t.Context())
	d := newDriver(t, "random kills", launch{program: program})
	err = d.randomKills(t.Context(), rounds, &r)
	r.Seconds = time.Since(r.Started).Round(time.Second / 10).Seconds()
	r.Outcomes, r.Rejected, r.Accepted = d.outcomes.Load(), d.rejected.Load(), d.accepted.Load()
	r.Replayed, r.Looked, r.Violations = d.replayed.Load(), d.looked.Load(), d.violations()
	d.report(t)
	if err != nil {
		t.Error(err)
	}
	t.Logf("%d rounds, %d kills (%d with requests open, and %d more while starting), %d operations acknowledged (%d rejected, %d accepted first), %d replays checked, %d violations",
		r.Rounds, r.Kills, r.Busy, r.Early, r.Outcomes, r.Rejected, r.Accepted, r.Replayed, r.Violations)
	if err := r.write(*resultsFlag); err != nil {
		t.Error(err)
	}
	if few := int64(rounds); r.Kills < rounds || r.Busy*3 < rounds || r.Early < 3 || r.Outcomes < 10*few || r.Rejected < few || r.Accepted < few || r.Replayed < 10*few || r.Looked < few {
		t.Errorf("too little has happened in %d rounds to learn from: %+v", rounds, r)
	}
}

func given(name string) (yes bool) {
	flag.Visit(func(f *flag.Flag) { yes = yes || f.Name == name })
	return yes
}

// randomKills plays the rounds and then the audit. It stops at the first round
// that finds something wrong.
func (d *driver) randomKills(ctx context.Context, rounds int, r *results) error {
	if err := d.startWithLuck(ctx, r); err != nil {
		return err
	}
	if err := d.open(ctx); err != nil {
		return err
	}
	for r.Rounds < rounds && d.violations() == 0 {
		if err := d.round(ctx, r); err != nil {
			return fmt.Errorf("round %d: %w", r.Rounds, err)
		}
		r.Rounds++
		// Now and then what a kill has left is judged as it is.
		if n := r.Rounds; n&(n-1) == 0 {
			if err := d.judge(ctx); err != nil {
				return err
			}
		}
		if err := d.startWithLuck(ctx, r); err != nil {
			return err
		}
	}
	if err := d.settleAll(ctx); err != nil {
		return err
	}
	const most = 20_000
	if err := d.repeat(ctx, d.some(most, d.dice(), (*intention).answered)); err != nil {
		return err
	}
	return d.audit(ctx)
}

// startWithLuck starts the program, which may be killed a few times before it
// is ready: also when it makes the file, and when it repairs one.
func (d *driver) startWithLuck(ctx context.Context, r *results) error {
	for dice := d.dice(); r.Kills == 0 && r.Early < 3 || dice.IntN(4) == 0; r.Early++ {
		s, err := begin(d.launch)
		if err != nil {
			return err
		}
		moment := time.NewTimer(time.Duration(dice.IntN(60)) * time.Millisecond)
		select {
		case <-moment.C:
		case <-s.died:
			moment.Stop()
			return fmt.Errorf("the program ended with %s while it started; see %s", s.cmd.ProcessState, d.launch.log)
		}
		s.kill()
	}
	return d.start(ctx, "")
}

// round begins with a program that has just started: the clients send again
// what was not answered, ask again for some of what was, and go on with new
// commands until the kill, which may come during any of it.
func (d *driver) round(ctx context.Context, r *results) error {
	dice := d.dice()
	open := d.all((*intention).unsettled)
	known := d.some(40, dice, (*intention).answered)
	stop, done := make(chan struct{}), make(chan error, 1)
	go func() {
		err := d.settle(ctx, open)
		if err == nil {
			err = d.repeat(ctx, known)
		}
		if err == nil {
			d.load(ctx, load{pace: 2 * time.Millisecond, stop: stop})
		}
		done <- err
	}()
	moment := time.NewTimer(time.Duration(50+dice.IntN(351)) * time.Millisecond)
	defer moment.Stop()
	select {
	case <-moment.C:
	case <-ctx.Done():
	case <-d.server.died: // by itself
	}
	byItself := d.server.dead()
	d.server.kill()
	close(stop)
	if err := <-done; err != nil && err != errDied {
		return err
	}
	if byItself || !d.server.killed() {
		return fmt.Errorf("the program ended by itself with %s; see %s", d.server.cmd.ProcessState, d.launch.log)
	}
	r.Kills++
	if len(d.all((*intention).silent)) > 0 {
		r.Busy++
	}
	return ctx.Err()
}

// commit says which code was tested, if git knows.
func commit(ctx context.Context) (id string, dirty bool) {
	out, err := exec.CommandContext(ctx, "git", "rev-parse", "HEAD").Output()
	if err != nil {
		return "", false
	}
	changes, err := exec.CommandContext(ctx, "git", "status", "--porcelain", "--untracked-files=no").Output()
	return strings.TrimSpace(string(out)), err == nil && len(changes) > 0
}

func (r *results) write(path string) error {
	if path == "" {
		return nil
	}
	encoded, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(path, append(encoded, '\n'), 0o644)
}
