package forge

import (
	"context"
	"errors"
	"strings"

	"github.com/bradleyfalzon/ghinstallation/v2"
	"github.com/google/go-github/v88/github"
)

// githubForge is a repository on GitHub or GitHub Enterprise.
type githubForge struct {
	client
	api *github.Client
}

func openGitHub(o Options) (Forge, error) {
	base, err := githubAPI(o.URL)
	if err != nil {
		return nil, err
	}
	h, guard, err := newHTTPClient(o, base)
	if err != nil {
		return nil, err
	}
	// The library still asks for previews that are long over.
	guard.accept = "application/vnd.github+json"
	options := []github.ClientOptionsFunc{
		github.WithURLs(new(base.String()), new(base.String())),
		github.WithUserAgent(userAgent),
		// Who calls is told how long to wait, and keeps to it; the library would answer by
		// itself, by another clock.
		github.WithDisableRateLimitCheck(),
	}
	if o.Credentials.app() {
		t, err := ghinstallation.New(guard, o.Credentials.AppID, o.Credentials.InstallationID, o.Credentials.PrivateKey)
		if err != nil {
			return nil, errors.New("the private key of the GitHub App can't be used")
		}
		t.BaseURL = strings.TrimSuffix(base.String(), "/")
		// The App may be installed for more; its token need not be good for more.
		t.InstallationTokenOptions = &github.InstallationTokenOptions{Repositories: []string{o.Repository}}
		h.Transport = t
	} else {
		options = append(options, github.WithAuthToken(o.Credentials.Token))
	}
	api, err := github.NewClient(append(options, github.WithHTTPClient(h))...)
	if err != nil {
		return nil, err
	}
	host := base.Host
	if host == "api."+githubHost {
		host = githubHost
	}
	return &githubForge{
		// A comment may have 65,536 characters; no text of as many bytes has more.
		client: client{Options: o, host: host, page: maxPage, limits: Limits{Description: 140, Comment: 65536}},
		api:    api,
	}, nil
}

func (g *githubForge) SetStatus(ctx context.Context, s Status) error {
	if err := g.checkStatus(&s); err != nil {
		return err
	}
	status := github.RepoStatus{State: new(string(s.State)), Context: new(s.Context), Description: new(basic(s.Description))}
	if s.TargetURL != "" {
		status.TargetURL = new(s.TargetURL)
	}
	return g.do(ctx, setStatus, func(ctx context.Context) error {
		_, _, err := g.api.Repositories.CreateStatus(ctx, g.Owner, g.Repository, s.Commit, status)
		return err
	})
}

// basic replaces the characters, like emoji, that GitHub refuses in a description.
func basic(s string) string {
	return strings.Map(func(r rune) rune {
		if r > 0xffff {
			return '\ufffd'
		}
		return r
	}, s)
}

func (g *githubForge) OpenPullRequests(ctx context.Context, base string) (prs []PullRequest, complete bool, err error) {
	err = g.do(ctx, listPullRequests, func(ctx context.Context) error {
		list, response, err := g.api.PullRequests.List(ctx, g.Owner, g.Repository, &github.PullRequestListOptions{
			State: "open", Base: base, Sort: "updated", Direction: "desc", ListOptions: github.ListOptions{PerPage: g.page},
		})
		if err != nil {
			return err
		}
		complete = response.NextPage == 0
		for _, item := range list {
			pr := githubPullRequest(item)
			if err := pr.found(0); err != nil {
				return err
			}
			prs = append(prs, pr)
		}
		return nil
	})
	if err != nil {
		return nil, false, err
	}
	return prs, complete, nil
}

func (g *githubForge) PullRequest(ctx context.Context, number int) (pr PullRequest, err error) {
	err = g.do(ctx, getPullRequest, func(ctx context.Context) error {
		item, _, err := g.api.PullRequests.Get(ctx, g.Owner, g.Repository, number)
		if err != nil {
			return err
		}
		pr = githubPullRequest(item)
		return pr.found(number)
	})
	if err != nil {
		return PullRequest{}, err
	}
	return pr, nil
}

func githubPullRequest(item *github.PullRequest) PullRequest {
	head, base := item.GetHead().GetRepo(), item.GetBase().GetRepo()
	return PullRequest{
		Number: item.GetNumber(), Title: item.GetTitle(), Author: item.GetUser().GetLogin(),
		Head: item.GetHead().GetSHA(), Base: item.GetBase().GetRef(), Ref: headRef(item.GetNumber()),
		Open: item.GetState() == "open", Draft: item.GetDraft(),
		// The head has no repository if that was deleted.
		Fork: head == nil || base == nil || head.GetID() != base.GetID(),
	}
}

func (g *githubForge) FindComment(ctx context.Context, number int, marker string) (id int64, found bool, err error) {
	return g.findComment(ctx, marker, func(ctx context.Context, n int) (commentPage, error) {
		list, response, err := g.api.Issues.ListComments(ctx, g.Owner, g.Repository, number, &github.IssueListCommentsOptions{
			ListOptions: github.ListOptions{Page: n, PerPage: g.page},
		})
		if err != nil {
			return commentPage{}, err
		}
		p := commentPage{next: response.NextPage}
		for _, item := range list {
			p.comments = append(p.comments, comment{item.GetID(), item.GetBody()})
		}
		return p, nil
	})
}

func (g *githubForge) CreateComment(ctx context.Context, number int, body string) (id int64, err error) {
	if err := g.checkComment(createComment, body); err != nil {
		return 0, err
	}
	err = g.do(ctx, createComment, func(ctx context.Context) error {
		item, _, err := g.api.Issues.CreateComment(ctx, g.Owner, g.Repository, number, &github.IssueComment{Body: new(body)})
		if err != nil {
			return err
		}
		if item.GetID() == 0 {
			return strange("its comment has no id")
		}
		id = item.GetID()
		return nil
	})
	return id, err
}

func (g *githubForge) EditComment(ctx context.Context, number int, id int64, body string) error {
	if err := g.checkComment(editComment, body); err != nil {
		return err
	}
	return g.do(ctx, editComment, func(ctx context.Context) error {
		_, _, err := g.api.Issues.EditComment(ctx, g.Owner, g.Repository, id, &github.IssueComment{Body: new(body)})
		return err
	})
}
