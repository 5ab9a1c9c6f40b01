package forge

import (
	"context"
	"errors"
	"net/http"

	"code.gitea.io/sdk/gitea"
)

// giteaForge is a repository on Gitea or Forgejo.
type giteaForge struct {
	client
	url  string
	http *http.Client
}

func openGitea(o Options) (Forge, error) {
	base, err := parseBase(o.URL)
	if err != nil {
		return nil, err
	}
	h, _, err := newHTTPClient(o, base)
	if err != nil {
		return nil, err
	}
	return &giteaForge{
		// Gitea itself takes longer descriptions; people see the same on all forges.
		client: client{Options: o, host: base.Host, page: maxPage, limits: Limits{Description: 140, Comment: 65535}},
		url:    base.String(), http: h,
	}, nil
}

// api returns the SDK for one request: it keeps its context in the client. The version of
// the server is not asked for: all that is used is older than what is supported.
func (g *giteaForge) api(ctx context.Context) (*gitea.Client, error) {
	return gitea.NewClient(g.url, gitea.SetHTTPClient(g.http), gitea.SetToken(g.Credentials.Token),
		gitea.SetGiteaVersion(""), gitea.SetUserAgent(userAgent), gitea.SetContext(ctx))
}

func (g *giteaForge) SetStatus(ctx context.Context, s Status) error {
	if err := g.checkStatus(&s); err != nil {
		return err
	}
	err := g.do(ctx, setStatus, func(ctx context.Context) error {
		api, err := g.api(ctx)
		if err != nil {
			return err
		}
		_, _, err = api.CreateStatus(g.Owner, g.Repository, s.Commit, gitea.CreateStatusOption{
			State: gitea.StatusState(s.State), Context: s.Context, Description: s.Description, TargetURL: s.TargetURL,
		})
		return err
	})
	return orGone(err, func() error { return g.getCommit(ctx, s.Commit) })
}

// orGone tells a fault of Gitea from what is gone: it has the same answer, 500, for a commit
// or a pull request that does not exist. To try that again for ever would be in vain, so
// it is worth a request to look.
func orGone(err error, look func() error) error {
	if e := (*Error)(nil); errors.As(err, &e) && e.status == http.StatusInternalServerError {
		if gone := look(); KindOf(gone) == NotFound {
			return gone
		}
	}
	return err
}

func (g *giteaForge) getCommit(ctx context.Context, id string) error {
	return g.do(ctx, getCommit, func(ctx context.Context) error {
		api, err := g.api(ctx)
		if err != nil {
			return err
		}
		_, _, err = api.GetSingleCommit(g.Owner, g.Repository, id)
		return err
	})
}

// OpenPullRequests filters by the base here: not every Gitea does it there.
func (g *giteaForge) OpenPullRequests(ctx context.Context, base string) (prs []PullRequest, complete bool, err error) {
	err = g.do(ctx, listPullRequests, func(ctx context.Context) error {
		api, err := g.api(ctx)
		if err != nil {
			return err
		}
		list, response, err := api.ListRepoPullRequests(g.Owner, g.Repository, gitea.ListPullRequestsOptions{
			// The server makes its own largest number of it, which is 50 by default.
			ListOptions: gitea.ListOptions{Page: 1, PageSize: g.page}, State: gitea.StateOpen, Sort: "recentupdate",
		})
		if err != nil {
			return err
		}
		complete = response.NextPage == 0
		for _, item := range list {
			pr := giteaPullRequest(item)
			if pr.Number > 0 && pr.Head == "" { // lost, or not there yet; the others don't suffer for it
				complete = false
				continue
			}
			if err := pr.found(0); err != nil {
				return err
			}
			if pr.Base == base {
				prs = append(prs, pr)
			}
		}
		return nil
	})
	if err != nil {
		return nil, false, err
	}
	return prs, complete, nil
}

func (g *giteaForge) PullRequest(ctx context.Context, number int) (pr PullRequest, err error) {
	err = g.do(ctx, getPullRequest, func(ctx context.Context) error {
		api, err := g.api(ctx)
		if err != nil {
			return err
		}
		item, _, err := api.GetPullRequest(g.Owner, g.Repository, int64(number))
		if err != nil {
			return err
		}
		pr = giteaPullRequest(item)
		return pr.found(number)
	})
	if err != nil {
		return PullRequest{}, err
	}
	return pr, nil
}

func giteaPullRequest(item *gitea.PullRequest) PullRequest {
	if item == nil {
		return PullRequest{}
	}
	pr := PullRequest{
		Number: int(item.Index), Title: item.Title, Ref: headRef(int(item.Index)),
		Open: item.State == gitea.StateOpen, Draft: item.Draft,
	}
	if item.Poster != nil {
		pr.Author = item.Poster.UserName
	}
	if item.Base != nil {
		pr.Base = item.Base.Ref
	}
	if item.Head != nil {
		pr.Head = item.Head.Sha
	}
	// The head has no repository if that was deleted.
	pr.Fork = item.Head == nil || item.Base == nil || item.Head.Repository == nil || item.Head.RepoID != item.Base.RepoID
	return pr
}

func (g *giteaForge) FindComment(ctx context.Context, number int, marker string) (id int64, found bool, err error) {
	id, found, err = g.findComment(ctx, marker, func(ctx context.Context, n int) (commentPage, error) {
		api, err := g.api(ctx)
		if err != nil {
			return commentPage{}, err
		}
		list, response, err := api.ListIssueComments(g.Owner, g.Repository, int64(number), gitea.ListIssueCommentOptions{
			ListOptions: gitea.ListOptions{Page: n, PageSize: g.page},
		})
		if err != nil {
			return commentPage{}, err
		}
		p := commentPage{next: response.NextPage}
		for _, item := range list {
			if item != nil {
				p.comments = append(p.comments, comment{item.ID, item.Body})
			}
		}
		return p, nil
	})
	return id, found, g.orPullGone(ctx, number, err)
}

func (g *giteaForge) orPullGone(ctx context.Context, number int, err error) error {
	return orGone(err, func() error {
		_, err := g.PullRequest(ctx, number)
		return err
	})
}

func (g *giteaForge) CreateComment(ctx context.Context, number int, body string) (id int64, err error) {
	if err := g.checkComment(createComment, body); err != nil {
		return 0, err
	}
	err = g.do(ctx, createComment, func(ctx context.Context) error {
		api, err := g.api(ctx)
		if err != nil {
			return err
		}
		item, _, err := api.CreateIssueComment(g.Owner, g.Repository, int64(number), gitea.CreateIssueCommentOption{Body: body})
		if err != nil {
			return err
		}
		if item.ID == 0 {
			return strange("its comment has no id")
		}
		id = item.ID
		return nil
	})
	return id, g.orPullGone(ctx, number, err)
}

func (g *giteaForge) EditComment(ctx context.Context, number int, id int64, body string) error {
	if err := g.checkComment(editComment, body); err != nil {
		return err
	}
	return g.do(ctx, editComment, func(ctx context.Context) error {
		api, err := g.api(ctx)
		if err != nil {
			return err
		}
		_, _, err = api.EditIssueComment(g.Owner, g.Repository, id, gitea.EditIssueCommentOption{Body: body})
		return err
	})
}
