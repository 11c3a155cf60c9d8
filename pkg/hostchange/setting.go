package hostchange

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"

	"skiff/pkg/process"
)

// Replacement is the Before of a Replaced: where the file as it was is kept, and
// what it is rewritten to, by which a later change of somebody else is seen.
func Replacement(backup string, content []byte) string {
	return fmt.Sprintf("%x %s", sha256.Sum256(content), backup)
}

// setting undoes a change of what other programs own.
func (u *Undo) setting(ctx context.Context, c Change) error {
	var err error
	switch c.Kind {
	case Replaced:
		err = u.putBack(c)
	case UFW:
		err = u.removeUFW(ctx, strings.Fields(c.Value))
	case Firewalld:
		err = u.removeFirewalld(ctx, strings.Fields(c.Value))
	case TimeSync:
		if Manager() == "systemd" {
			_, err = u.Run(ctx, "timedatectl", "set-ntp", "false")
		}
	}
	if err != nil {
		return fmt.Errorf("undo %s %s: %w", c.Kind, c.Value, err)
	}
	return nil
}

// putBack makes a file what it was, unless somebody has changed it since.
func (u *Undo) putBack(c Change) error {
	hash, backup, ok := strings.Cut(c.Before, " ")
	if !ok {
		return fmt.Errorf("%q does not say what it was", c.Before)
	}
	if _, err := os.Lstat(backup); errors.Is(err, fs.ErrNotExist) {
		return nil // It was put back.
	}
	have, err := os.ReadFile(c.Value)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if fmt.Sprintf("%x", sha256.Sum256(have)) != hash {
		if u.Left != nil {
			u.Left(c.Value + " as it is now, since it was changed after skiff did,")
		}
		return nil
	}
	return os.Rename(backup, c.Value)
}

// removeUFW deletes a rule. ufw is content if there is none.
func (u *Undo) removeUFW(ctx context.Context, rule []string) error {
	args := append([]string{"delete"}, rule...)
	if len(rule) > 0 && rule[0] == "route" {
		args = append([]string{"route", "delete"}, rule[1:]...)
	}
	_, err := u.Run(ctx, "ufw", args...)
	return unlessGone(err)
}

// removeFirewalld turns options that add something into those that remove it.
// Where firewalld does not run only its files have it.
func (u *Undo) removeFirewalld(ctx context.Context, options []string) error {
	var remove []string
	for _, o := range options {
		if rest, ok := strings.CutPrefix(o, "--add-"); ok {
			o = "--remove-" + rest
		}
		remove = append(remove, o)
	}
	if _, err := u.Run(ctx, "firewall-cmd", "--state"); err != nil {
		_, err = u.Run(ctx, "firewall-offline-cmd", remove...)
		return unlessGone(err)
	}
	_, now := u.Run(ctx, "firewall-cmd", remove...)
	_, later := u.Run(ctx, "firewall-cmd", append([]string{"--permanent"}, remove...)...)
	return errors.Join(now, later)
}

// unlessGone is no error where a program is not installed any more: what it had
// went with it.
func unlessGone(err error) error {
	if errors.Is(err, process.ErrNotFound) {
		return nil
	}
	return err
}
