<?php
/**
 * Writes back when members were last active who are connected to the server only.
 *
 * @package Buddyline
 */

defined( 'ABSPATH' ) || exit;

/**
 * Last activity, in batches.
 */
final class Buddyline_Activity {

	/**
	 * How many users a request may name.
	 */
	const MAX_USERS = 500;

	/**
	 * Stores times that are newer than what the site knows.
	 *
	 * @param array $users Entries of userId and at.
	 * @param int   $now   Unix time.
	 * @return int How many entries were accepted.
	 */
	public static function accept( $users, $now ) {
		$times = array();
		foreach ( $users as $user ) {
			if ( ! is_array( $user ) || ! isset( $user['userId'], $user['at'] ) || ! is_int( $user['userId'] ) || ! is_int( $user['at'] ) || $user['userId'] <= 0 || $user['at'] <= 0 ) {
				continue;
			}
			// The server's clock may be ahead; nobody is active in the future.
			$at = min( $user['at'], $now );

			$times[ $user['userId'] ] = max( $at, isset( $times[ $user['userId'] ] ) ? $times[ $user['userId'] ] : 0 );
		}
		if ( ! $times || ! function_exists( 'bp_update_user_last_activity' ) ) {
			return 0;
		}
		$ids   = array_keys( $times );
		$known = class_exists( 'BP_Core_User' ) ? BP_Core_User::get_last_activity( $ids ) : array();
		$known = is_array( $known ) ? $known : array();
		cache_users( $ids );
		$accepted = 0;
		foreach ( $times as $user_id => $at ) {
			if ( ! get_userdata( $user_id ) ) {
				continue;
			}
			++$accepted;
			$before = isset( $known[ $user_id ]['date_recorded'] ) ? strtotime( $known[ $user_id ]['date_recorded'] . ' UTC' ) : 0;
			if ( $at > $before ) {
				bp_update_user_last_activity( $user_id, gmdate( 'Y-m-d H:i:s', $at ) );
			}
		}
		return $accepted;
	}
}
