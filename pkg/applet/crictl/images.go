package crictl

import (
	"cmp"
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func (e *environment) imagesCommand() *cobra.Command {
	var output string
	var quiet, digests, noTrunc, verbose bool
	c := &cobra.Command{Use: "images [flags] [REPOSITORY[:TAG]]", Aliases: []string{"image", "img"}, Short: "List images", Args: cobra.MaximumNArgs(1)}
	f := c.Flags()
	f.StringVarP(&output, "output", "o", "table", "table, json or yaml")
	f.BoolVarP(&quiet, "quiet", "q", false, "only ids")
	f.BoolVar(&digests, "digests", false, "show digests")
	f.BoolVar(&noTrunc, "no-trunc", false, "whole ids")
	f.BoolVarP(&verbose, "verbose", "v", false, "everything about each image")
	c.RunE = func(c *cobra.Command, args []string) error {
		if err := checkFormat(output, "table", "json", "yaml"); err != nil {
			return err
		}
		s, err := e.imageService(c.Context())
		if err != nil {
			return err
		}
		filter := &runtimeapi.ImageFilter{}
		if len(args) > 0 {
			filter.Image = &runtimeapi.ImageSpec{Image: args[0]}
		}
		list, err := s.ListImages(c.Context(), filter)
		if err != nil {
			return fmt.Errorf("list images: %w", err)
		}
		slices.SortFunc(list, func(a, b *runtimeapi.Image) int { return cmp.Compare(imageName(a), imageName(b)) })
		switch {
		case output != "table":
			return structuredList(e.Out, output, "images", list)
		case quiet:
			for _, i := range list {
				fmt.Fprintln(e.Out, i.Id)
			}
			return nil
		case verbose:
			e.printImages(list)
			return nil
		}
		return e.imageTable(list, digests, noTrunc)
	}
	return c
}

func (e *environment) imageTable(list []*runtimeapi.Image, digests, noTrunc bool) error {
	heads := []string{"IMAGE", "TAG", "IMAGE ID", "SIZE"}
	if digests {
		heads = []string{"IMAGE", "TAG", "DIGEST", "IMAGE ID", "SIZE"}
	}
	var rows [][]string
	for _, i := range list {
		for _, n := range names(i) {
			row := []string{n.repo, n.tag, id(i.Id, noTrunc), size(i.Size)}
			if digests {
				row = []string{n.repo, n.tag, id(n.digest, noTrunc), id(i.Id, noTrunc), size(i.Size)}
			}
			rows = append(rows, row)
		}
	}
	return table(e.Out, heads, rows)
}

func (e *environment) printImages(list []*runtimeapi.Image) {
	for _, i := range list {
		fmt.Fprintf(e.Out, "ID: %s\n", i.Id)
		for _, t := range i.RepoTags {
			fmt.Fprintf(e.Out, "RepoTags: %s\n", t)
		}
		for _, d := range i.RepoDigests {
			fmt.Fprintf(e.Out, "RepoDigests: %s\n", d)
		}
		fmt.Fprintf(e.Out, "Size: %s\nPinned: %t\n\n", size(i.Size), i.Pinned)
	}
}

// imageRef is one of the names of an image.
type imageRef struct{ repo, tag, digest string }

// names lists the names of an image as lines of the table.
func names(i *runtimeapi.Image) []imageRef {
	const none = "<none>"
	repo, digest := none, none
	if len(i.RepoDigests) > 0 {
		if r, d, ok := strings.Cut(i.RepoDigests[0], "@"); ok {
			repo, digest = r, d
		}
	}
	if len(i.RepoTags) == 0 {
		return []imageRef{{repo, none, digest}}
	}
	var out []imageRef
	for _, t := range i.RepoTags {
		n := imageRef{t, none, digest}
		if at := strings.LastIndexByte(t, ':'); at > strings.LastIndexByte(t, '/') {
			n.repo, n.tag = t[:at], t[at+1:]
		}
		out = append(out, n)
	}
	return out
}

func imageName(i *runtimeapi.Image) string { return names(i)[0].repo + ":" + names(i)[0].tag }

func (e *environment) pullCommand() *cobra.Command {
	var creds, auth string
	c := &cobra.Command{Use: "pull [flags] IMAGE", Short: "Pull an image from a registry", Args: cobra.ExactArgs(1)}
	c.Flags().StringVar(&creds, "creds", "", "USERNAME[:PASSWORD] for the registry")
	c.Flags().StringVar(&auth, "auth", "", "base64 of USERNAME[:PASSWORD] for the registry")
	c.MarkFlagsMutuallyExclusive("creds", "auth")
	c.RunE = func(c *cobra.Command, args []string) error {
		a, err := registryAuth(creds, auth)
		if err != nil {
			return err
		}
		s, err := e.imageService(c.Context())
		if err != nil {
			return err
		}
		ref, err := s.PullImage(c.Context(), &runtimeapi.ImageSpec{Image: args[0], UserSpecifiedImage: args[0]}, a, nil)
		if err != nil {
			return fmt.Errorf("pull image %s: %w", args[0], err)
		}
		fmt.Fprintf(e.Out, "Image is up to date for %s\n", ref)
		return nil
	}
	return c
}

// registryAuth parses --creds and --auth.
func registryAuth(creds, auth string) (*runtimeapi.AuthConfig, error) {
	if auth != "" {
		b, err := base64.StdEncoding.DecodeString(auth)
		if err != nil {
			return nil, fmt.Errorf("decode --auth: %w", err)
		}
		creds = string(b)
	}
	if creds == "" {
		return nil, nil
	}
	user, password, _ := strings.Cut(creds, ":")
	if user == "" {
		return nil, errors.New("the user name in --creds or --auth is empty")
	}
	return &runtimeapi.AuthConfig{Username: user, Password: password}, nil
}

func (e *environment) rmiCommand() *cobra.Command {
	var all, prune bool
	c := &cobra.Command{Use: "rmi [flags] IMAGE...", Short: "Remove images"}
	c.Flags().BoolVarP(&all, "all", "a", false, "all images")
	c.Flags().BoolVarP(&prune, "prune", "q", false, "all images that no container uses")
	c.RunE = func(c *cobra.Command, args []string) error {
		ctx := c.Context()
		if len(args) == 0 && !all && !prune {
			return errors.New("name an image, or use --all or --prune")
		}
		s, err := e.imageService(ctx)
		if err != nil {
			return err
		}
		if all || prune {
			used, err := e.usedImages(ctx, prune && !all)
			if err != nil {
				return err
			}
			list, err := s.ListImages(ctx, nil)
			if err != nil {
				return fmt.Errorf("list images: %w", err)
			}
			for _, i := range list {
				if !used[i.Id] && !i.Pinned {
					args = append(args, i.Id)
				}
			}
		}
		return each(args, func(name string) error {
			r, err := s.ImageStatus(ctx, &runtimeapi.ImageSpec{Image: name}, false)
			if err != nil {
				return fmt.Errorf("get image %s: %w", name, err)
			}
			if r.GetImage() == nil {
				return fmt.Errorf("no such image %s", name)
			}
			if err := s.RemoveImage(ctx, &runtimeapi.ImageSpec{Image: name}); err != nil {
				return fmt.Errorf("remove image %s: %w", name, err)
			}
			if len(r.Image.RepoTags) == 0 {
				fmt.Fprintf(e.Out, "Deleted: %s\n", r.Image.Id)
			}
			for _, t := range r.Image.RepoTags {
				fmt.Fprintf(e.Out, "Deleted: %s\n", t)
			}
			return nil
		})
	}
	return c
}
