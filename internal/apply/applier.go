package apply

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/go-logr/logr"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/rest"
	"k8s.io/utils/clock"

	"capstan.dev/capstan/api/v1alpha1"
)

// Options configure an [Applier].
type Options struct {
	// Config reaches the management cluster. It is copied; its limits on requests
	// are ignored, because Concurrency and the API server's own priorities bound
	// them.
	Config *rest.Config

	// Concurrency is the number of requests in flight, over all overlays and all
	// ServiceAccounts. Default 8: more do not make a small API server faster. One
	// overlay uses at most half of them.
	Concurrency int

	// FieldManager owns the applied fields. Default v1alpha1.FieldManager.
	FieldManager string

	// RequestTimeout bounds one request. Default 60 s, what an API server takes
	// at most by itself.
	RequestTimeout time.Duration

	// DefinitionTimeout bounds the wait for the kind of a CustomResourceDefinition
	// just applied to be served. Default 30 s.
	DefinitionTimeout time.Duration

	// Log gets what is worth knowing but is no error. Default: discarded.
	Log logr.Logger

	// Clock is for tests. Default: the real one.
	Clock clock.WithTicker
}

// Applier reads and writes managed objects under one identity. It is safe for
// concurrent use.
type Applier struct {
	*shared
	rest rest.Interface
	// account is the impersonated ServiceAccount, "" for the identity of Config.
	account string
}

// shared is common to all identities.
type shared struct {
	config            *rest.Config
	kinds             *kinds
	limiter           chan struct{} // one token per request in flight
	manager           string
	definitionTimeout time.Duration
	concurrency       int
	log               logr.Logger
	clock             clock.WithTicker

	mu        sync.Mutex
	byAccount map[string]*Applier
}

// New returns an Applier that acts with the rights of Options.Config. It sends
// nothing.
func New(opts Options) (*Applier, error) {
	if opts.Config == nil {
		return nil, errors.New("apply: Options.Config is required")
	}
	if opts.Concurrency < 0 || opts.RequestTimeout < 0 || opts.DefinitionTimeout < 0 {
		return nil, errors.New("apply: Options: negative value")
	}
	config := rest.CopyConfig(opts.Config)
	config.QPS, config.Burst, config.RateLimiter = -1, 0, nil
	config.Timeout = orDefault(opts.RequestTimeout, 60*time.Second)
	config.WarningHandler = rest.NoWarnings{}
	config.WarningHandlerWithContext = nil

	httpClient, err := rest.HTTPClientFor(config)
	if err != nil {
		return nil, fmt.Errorf("apply: %w", err)
	}
	disco, err := discovery.NewDiscoveryClientForConfigAndClient(config, httpClient)
	if err != nil {
		return nil, fmt.Errorf("apply: %w", err)
	}
	s := &shared{
		config:            config,
		manager:           orDefault(opts.FieldManager, v1alpha1.FieldManager),
		concurrency:       orDefault(opts.Concurrency, 8),
		definitionTimeout: orDefault(opts.DefinitionTimeout, 30*time.Second),
		log:               opts.Log,
		clock:             opts.Clock,
		byAccount:         map[string]*Applier{},
	}
	if s.clock == nil {
		s.clock = clock.RealClock{}
	}
	if s.log.GetSink() == nil {
		s.log = logr.Discard()
	}
	s.limiter = make(chan struct{}, s.concurrency)
	s.kinds = &kinds{discovery: disco, clock: s.clock}
	return s.identity("")
}

// As returns an Applier that acts with the rights of a ServiceAccount, named as
// its user: system:serviceaccount:namespace:name. The limit on requests and what
// is known of the API server's kinds are shared.
func (a *Applier) As(serviceAccount string) (*Applier, error) {
	if serviceAccount == "" {
		return nil, errors.New("apply: no ServiceAccount to act as")
	}
	return a.identity(serviceAccount)
}

// identity returns the Applier of an account, made on first use.
func (s *shared) identity(account string) (*Applier, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if a := s.byAccount[account]; a != nil {
		return a, nil
	}
	config := rest.CopyConfig(s.config)
	if account != "" {
		config.Impersonate = rest.ImpersonationConfig{UserName: account}
	}
	config.GroupVersion = &schema.GroupVersion{}
	config.NegotiatedSerializer = serializer.NewCodecFactory(runtime.NewScheme()).WithoutConversion()
	config.AcceptContentTypes, config.ContentType = runtime.ContentTypeJSON, runtime.ContentTypeJSON
	client, err := rest.UnversionedRESTClientFor(config)
	if err != nil {
		return nil, fmt.Errorf("apply: client for %q: %w", account, err)
	}
	a := &Applier{shared: s, rest: client, account: account}
	s.byAccount[account] = a
	return a, nil
}

// acquire waits for a place among the requests in flight.
func (s *shared) acquire(ctx context.Context) error {
	select {
	case s.limiter <- struct{}{}:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (s *shared) release() { <-s.limiter }

// share is the number of requests that one run may have in flight: what hangs in
// one overlay leaves room for the others.
func (s *shared) share() int { return max(1, s.concurrency/2) }

func orDefault[T comparable](value, fallback T) T {
	var zero T
	if value == zero {
		return fallback
	}
	return value
}
