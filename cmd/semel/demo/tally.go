package demo

import (
	"fmt"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/semel-dev/semel"
)

// kept is how many intentions of a side are remembered, the newest ones.
const kept = 200

// An intention is what somebody wants done once, however often it is sent.
type intention struct {
	principal, name, account, key string
	cents                         int64
}

func (i intention) id() string {
	return semel.Command{Principal: i.principal, Name: i.name, Key: i.key}.ID().String()
}

// A moment is one line of an intention's timeline.
type moment struct {
	At   time.Time `json:"at"`
	What string    `json:"what"`
}

// A story is what the proxy has seen of one intention.
type story struct {
	intention
	began        time.Time
	tries        int // requests of the visitor
	sends        int // requests passed on, duplicates among them
	replays      int
	acknowledged bool // there was an answer 2xx
	timeline     []moment
}

// A tally is the proxy's own journal of one side. It knows nothing of what the
// side says about itself, which is what makes it a witness.
type tally struct {
	changed func()

	mu          sync.Mutex
	stories     map[string]*story
	order       []string // ids, the oldest first
	requests    int      // passed on, or lost on their way
	replays     int
	repliesLost int
}

func newTally(changed func()) *tally {
	return &tally{changed: changed, stories: make(map[string]*story)}
}

// arrived notes a request of the visitor and says which try it is.
func (t *tally) arrived(what intention) (try int) {
	t.update(what, func(s *story) string {
		s.tries++
		try = s.tries
		if try == 1 {
			return "request"
		}
		return fmt.Sprintf("request again, try %d", try)
	})
	return max(try, 1)
}

func (t *tally) sent(what intention) {
	t.update(what, func(s *story) string {
		s.sends++
		t.requests++
		return ""
	})
}

func (t *tally) requestLost(what intention) {
	t.update(what, func(*story) string {
		t.requests++
		return "request lost before it arrived"
	})
}

func (t *tally) answered(what intention, status int, replayed bool) {
	t.update(what, func(s *story) string {
		if status/100 == 2 {
			s.acknowledged = true
		}
		if replayed {
			s.replays++
			t.replays++
			return fmt.Sprintf("answered %d, replayed", status)
		}
		return fmt.Sprintf("answered %d %s", status, http.StatusText(status))
	})
}

func (t *tally) replyLost(what intention, status int) {
	t.update(what, func(*story) string {
		t.repliesLost++
		return fmt.Sprintf("the answer %d was lost on its way back", status)
	})
}

func (t *tally) note(what intention, words string) {
	t.update(what, func(*story) string { return words })
}

// update changes one story under the lock and tells the page. Change returns
// the line to add to the timeline, if any.
func (t *tally) update(what intention, change func(*story) string) {
	if what.key == "" {
		return
	}
	t.mu.Lock()
	id := what.id()
	s := t.stories[id]
	if s == nil {
		s = &story{intention: what, began: time.Now()}
		t.stories[id] = s
		t.order = append(t.order, id)
		if len(t.order) > kept {
			delete(t.stories, t.order[0])
			t.order = slices.Delete(t.order, 0, 1)
		}
	}
	if words := change(s); words != "" && len(s.timeline) < kept {
		s.timeline = append(s.timeline, moment{time.Now(), words})
	}
	t.mu.Unlock()
	t.changed()
}

// totals returns how many requests went out, how many replays came back, and
// how many answers were cut off.
func (t *tally) totals() (requests, replays, repliesLost int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.requests, t.replays, t.repliesLost
}

// newest returns copies of the stories, the newest first.
func (t *tally) newest() []story {
	t.mu.Lock()
	defer t.mu.Unlock()
	stories := make([]story, 0, len(t.order))
	for _, id := range slices.Backward(t.order) {
		s := *t.stories[id]
		s.timeline = slices.Clone(s.timeline)
		stories = append(stories, s)
	}
	return stories
}

// acknowledged returns the ids of what was answered with 2xx.
func (t *tally) acknowledged() []string {
	var ids []string
	for _, s := range t.newest() {
		if s.acknowledged {
			ids = append(ids, s.id())
		}
	}
	return ids
}
