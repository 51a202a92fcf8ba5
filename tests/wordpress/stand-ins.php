<?php
/**
 * Small stand-ins for the parts of WordPress and BuddyBoss that the plugin uses, for tests without both.
 *
 * What the real ones do is tested by tests/wordpress/run.
 */

error_reporting( E_ALL );
set_error_handler(
	function ( $level, $text, $file, $line ) {
		throw new ErrorException( $text, 0, $level, $file, $line );
	}
);

define( 'ABSPATH', '/' );
define( 'DAY_IN_SECONDS', 86400 );
define( 'HOUR_IN_SECONDS', 3600 );
define( 'BUDDYLINE_VERSION', '0.1.0' );
define( 'BUDDYLINE_FILE', __DIR__ . '/../../wordpress/buddyline/buddyline.php' );
define( 'BP_PLATFORM_VERSION', '3.4.1' );

/** Everything that a test can set or look at. */
class World {
	public static $hooks, $options, $posts, $answer, $tables, $meta, $user_meta, $users, $user, $unread, $notified, $log, $scheduled, $routes, $session, $suspended, $activity, $displayed, $blocking, $curl, $app_password, $deleted_notifications, $groups, $caps;

	public static function reset() {
		self::$hooks     = array();
		self::$options   = array(
			'home'                 => 'https://community.example',
			'buddyline_secret'     => str_repeat( 'k', 64 ),
			'buddyline_url'        => 'wss://community.example/live',
			'buddyline_events_url' => 'http://127.0.0.1:8080',
		);
		self::$posts     = array();
		self::$answer    = null;
		self::$tables    = array(
			'recipients' => array(),
			'messages'   => array(),
			'blocks'     => array(),
		);
		self::$meta      = array();
		self::$user_meta = array();
		self::$users     = array();
		foreach ( range( 1, 60 ) as $id ) {
			self::$users[ $id ] = (object) array(
				'ID'        => $id,
				'user_pass' => 'hash of ' . $id,
			);
		}
		self::$user                  = 0;
		self::$unread                = array();
		self::$notified              = array();
		self::$deleted_notifications = array();
		self::$log                   = array();
		self::$scheduled             = array();
		self::$routes                = array();
		self::$session               = '';
		self::$suspended             = array();
		self::$activity              = array();
		self::$displayed             = 0;
		self::$blocking              = true;
		self::$curl                  = array();
		self::$app_password          = null;
		self::$groups                = array( 1 => 21 );
		self::$caps                  = array();
		$GLOBALS['wpdb']             = new Stand_In_Wpdb();
	}
}

class WP_Error {
	public $code, $message, $data;
	public function __construct( $code = '', $message = '', $data = array() ) {
		$this->code    = $code;
		$this->message = $message;
		$this->data    = $data;
	}
	public function get_error_code() {
		return $this->code;
	}
	public function get_error_message() {
		return $this->message;
	}
}

class WP_REST_Response {
	public $data, $status, $headers = array();
	public function __construct( $data = null, $status = 200 ) {
		$this->data   = $data;
		$this->status = $status;
	}
	public function header( $name, $value ) {
		$this->headers[ $name ] = $value;
	}
}

class WP_REST_Request {
	private $headers, $body, $method;
	public function __construct( $body, $headers, $method = 'POST' ) {
		$this->body    = $body;
		$this->headers = $headers;
		$this->method  = $method;
	}
	public function get_method() {
		return $this->method;
	}
	public function get_body() {
		return $this->body;
	}
	public function get_header( $name ) {
		return isset( $this->headers[ $name ] ) ? $this->headers[ $name ] : null;
	}
}

/** The statements of the plugin, on arrays. A statement that it does not know is an error. */
class Stand_In_Wpdb {
	public $options = 'wp_options';
	public $queries = array();

	public function prepare( $sql, ...$values ) {
		$values = 1 === count( $values ) && is_array( $values[0] ) ? $values[0] : $values;
		return preg_replace_callback(
			'/%[sd]/',
			function ( $mark ) use ( &$values ) {
				if ( ! $values ) {
					throw new Exception( 'a placeholder has no value' );
				}
				$value = array_shift( $values );
				return '%d' === $mark[0] ? (string) (int) $value : "'" . addslashes( (string) $value ) . "'";
			},
			$sql
		);
	}

	public function esc_like( $text ) {
		return addcslashes( $text, '_%\\' );
	}

	public function query( $sql ) {
		$this->queries[] = $sql;
		if ( preg_match( "/^INSERT IGNORE INTO wp_options .* VALUES \( '([^']+)', '([^']*)', 'no' \)$/", $sql, $m ) ) {
			if ( isset( World::$options[ $m[1] ] ) ) {
				return 0;
			}
			World::$options[ $m[1] ] = $m[2];
			return 1;
		}
		if ( preg_match( "/^INSERT INTO wp_options .* VALUES \( '([^']+)', (-?\d+), 'no' \) ON DUPLICATE KEY UPDATE option_value = GREATEST\( 0, CAST\( option_value AS SIGNED \) \+ (-?\d+) \)$/", $sql, $m ) ) {
			World::$options[ $m[1] ] = isset( World::$options[ $m[1] ] ) ? (string) max( 0, (int) World::$options[ $m[1] ] + (int) $m[3] ) : $m[2];
			return 1;
		}
		if ( preg_match( "/^INSERT INTO wp_options .* VALUES \( '([^']+)', '(.*)', 'no' \) ON DUPLICATE KEY UPDATE option_value = VALUES\( option_value \)$/s", $sql, $m ) ) {
			World::$options[ $m[1] ] = stripslashes( $m[2] );
			return 1;
		}
		if ( preg_match( "/^UPDATE wp_options SET option_value = '(\d+)' WHERE option_name = '(\w+)' AND option_value = '(\d+)'$/", $sql, $m ) ) {
			if ( ! isset( World::$options[ $m[2] ] ) || World::$options[ $m[2] ] !== $m[3] ) {
				return 0;
			}
			World::$options[ $m[2] ] = $m[1];
			return 1;
		}
		if ( preg_match( '/^DELETE FROM wp_options WHERE option_name LIKE .* AND CAST\( option_value AS UNSIGNED \) < (\d+) LIMIT (\d+)$/', $sql, $m ) ) {
			$left = (int) $m[2];
			foreach ( self::ids() as $name ) {
				if ( $left > 0 && (int) World::$options[ $name ] < (int) $m[1] ) {
					unset( World::$options[ $name ] );
					--$left;
				}
			}
			return (int) $m[2] - $left;
		}
		throw new Exception( 'unknown statement: ' . $sql );
	}

	public static function ids() {
		return array_values(
			array_filter(
				array_keys( World::$options ),
				function ( $name ) {
					return 0 === strpos( $name, 'buddyline_id_' );
				}
			)
		);
	}

	public function get_results( $sql ) {
		$this->queries[] = $sql;
		if ( ! preg_match( '/^SELECT option_name, option_value FROM wp_options WHERE option_name IN \( (.*) \)$/', $sql, $m ) ) {
			throw new Exception( 'unknown statement: ' . $sql );
		}
		$rows = array();
		foreach ( explode( ', ', $m[1] ) as $name ) {
			$name = trim( $name, "'" );
			if ( isset( World::$options[ $name ] ) ) {
				$rows[] = (object) array(
					'option_name'  => $name,
					'option_value' => World::$options[ $name ],
				);
			}
		}
		return $rows;
	}

	public function get_var( $sql ) {
		$this->queries[] = $sql;
		if ( preg_match( '/^SELECT COUNT\(\*\) FROM wp_options/', $sql ) ) {
			return (string) count( self::ids() );
		}
		if ( preg_match( '/^SELECT MAX\( id \) FROM wp_bp_messages_messages WHERE thread_id = (\d+)$/', $sql, $m ) ) {
			return isset( World::$tables['messages'][ $m[1] ] ) ? (string) World::$tables['messages'][ $m[1] ] : null;
		}
		throw new Exception( 'unknown statement: ' . $sql );
	}

	public function get_col( $sql ) {
		$this->queries[] = $sql;
		if ( preg_match( '/^SELECT user_id FROM wp_bp_messages_recipients WHERE thread_id = (\d+) AND is_deleted = 0 AND user_id IN \( ([\d,]+) \)$/', $sql, $m ) ) {
			$in = isset( World::$tables['recipients'][ $m[1] ] ) ? World::$tables['recipients'][ $m[1] ] : array();
			return array_map( 'strval', array_values( array_intersect( $in, array_map( 'intval', explode( ',', $m[2] ) ) ) ) );
		}
		if ( preg_match( '/^SELECT r.thread_id FROM wp_bp_messages_recipients r WHERE r.user_id = (\d+) .* LIMIT (\d+)$/', $sql, $m ) ) {
			$threads = array();
			foreach ( World::$tables['recipients'] as $thread => $users ) {
				if ( in_array( (int) $m[1], $users, true ) ) {
					$threads[ $thread ] = isset( World::$tables['messages'][ $thread ] ) ? World::$tables['messages'][ $thread ] : 0;
				}
			}
			arsort( $threads );
			return array_map( 'strval', array_slice( array_keys( $threads ), 0, (int) $m[2] ) );
		}
		if ( preg_match( '/^\( SELECT s.item_id FROM wp_bp_moderation s JOIN wp_bp_moderation_reports r .*r\.user_id = (\d+)(?: AND s\.item_id IN \( ([\d,]+) \))? \) UNION .* LIMIT (\d+)$/', $sql, $m ) ) {
			$found = array();
			foreach ( World::$tables['blocks'] as $block ) {
				if ( in_array( (int) $m[1], $block, true ) ) {
					$found[] = $block[0] === (int) $m[1] ? $block[1] : $block[0];
				}
			}
			$found = array_values( array_unique( $found ) );
			if ( isset( $m[2] ) && '' !== $m[2] ) {
				$found = array_values( array_intersect( $found, array_map( 'intval', explode( ',', $m[2] ) ) ) );
			}
			return array_map( 'strval', array_slice( $found, 0, (int) $m[3] ) );
		}
		throw new Exception( 'unknown statement: ' . $sql );
	}
}

function add_action( $hook, $callback, $priority = 10, $arguments = 1 ) {
	World::$hooks[ $hook ][ $priority ][] = array( $callback, $arguments );
}
function add_filter( $hook, $callback, $priority = 10, $arguments = 1 ) {
	add_action( $hook, $callback, $priority, $arguments );
}
function remove_action( $hook, $callback, $priority = 10 ) {
	foreach ( World::$hooks[ $hook ][ $priority ] as $index => $entry ) {
		if ( $entry[0] === $callback ) {
			unset( World::$hooks[ $hook ][ $priority ][ $index ] );
		}
	}
}
function do_action( $hook, ...$arguments ) {
	if ( empty( World::$hooks[ $hook ] ) ) {
		return;
	}
	ksort( World::$hooks[ $hook ] );
	foreach ( World::$hooks[ $hook ] as $entries ) {
		foreach ( $entries as $entry ) {
			call_user_func_array( $entry[0], array_slice( $arguments, 0, $entry[1] ) );
		}
	}
}
function apply_filters( $hook, $value, ...$arguments ) {
	if ( empty( World::$hooks[ $hook ] ) ) {
		return $value;
	}
	ksort( World::$hooks[ $hook ] );
	foreach ( World::$hooks[ $hook ] as $entries ) {
		foreach ( $entries as $entry ) {
			$value = call_user_func_array( $entry[0], array_slice( array_merge( array( $value ), $arguments ), 0, $entry[1] ) );
		}
	}
	return $value;
}
function get_option( $name, $fallback = false ) {
	return array_key_exists( $name, World::$options ) ? World::$options[ $name ] : $fallback;
}
function update_option( $name, $value, $autoload = null ) {
	World::$options[ $name ] = $value;
	return true;
}
function is_multisite() {
	return false;
}
function untrailingslashit( $text ) {
	return rtrim( $text, '/\\' );
}
function wp_parse_url( $url ) {
	return parse_url( $url );
}
function wp_json_encode( $value, $flags = 0, $depth = 512 ) {
	return json_encode( $value, $flags, $depth );
}
function wp_remote_post( $url, $arguments ) {
	$handle = function_exists( 'curl_init' ) ? curl_init() : new stdClass();
	do_action( 'http_api_curl', $handle, $arguments, $url );
	World::$posts[] = array(
		'url'  => $url,
		'args' => $arguments,
		'body' => json_decode( $arguments['body'], true ),
	);
	$answer = World::$answer;
	if ( is_callable( $answer ) ) {
		$answer = $answer( count( World::$posts ), $arguments );
	}
	if ( null === $answer ) {
		$answer = answer( 200, array( 'accepted' => 1, 'ignored' => 0 ) );
	}
	return $answer;
}
function answer( $status, $body, $headers = array() ) {
	return array(
		'status'  => $status,
		'body'    => is_string( $body ) ? $body : json_encode( $body ),
		'headers' => $headers,
	);
}
function is_wp_error( $value ) {
	return $value instanceof WP_Error;
}
function wp_remote_retrieve_response_code( $response ) {
	return $response['status'];
}
function wp_remote_retrieve_body( $response ) {
	return $response['body'];
}
function wp_remote_retrieve_header( $response, $name ) {
	return isset( $response['headers'][ $name ] ) ? $response['headers'][ $name ] : '';
}
if ( ! function_exists( 'curl_setopt' ) ) {
	function curl_setopt( $handle, $option, $value ) {
	}
}
function wp_next_scheduled( $hook ) {
	return isset( World::$scheduled[ $hook ] ) ? World::$scheduled[ $hook ] : false;
}
function wp_schedule_single_event( $time, $hook ) {
	World::$scheduled[ $hook ] = $time;
	return true;
}
function wp_clear_scheduled_hook( $hook ) {
	unset( World::$scheduled[ $hook ] );
}
function buddypress() {
	return (object) array(
		'messages'   => (object) array(
			'table_name_recipients' => 'wp_bp_messages_recipients',
			'table_name_messages'   => 'wp_bp_messages_messages',
		),
		'moderation' => (object) array(
			'table_name'         => 'wp_bp_moderation',
			'table_name_reports' => 'wp_bp_moderation_reports',
		),
	);
}
function bp_is_active( $component ) {
	return true;
}
function bp_is_moderation_member_blocking_enable( $fallback ) {
	return World::$blocking;
}
function bp_moderation_is_user_suspended( $user_id ) {
	return in_array( $user_id, World::$suspended, true );
}
function messages_get_unread_count( $user_id ) {
	return isset( World::$unread[ $user_id ] ) ? World::$unread[ $user_id ] : 0;
}
function bp_notifications_get_unread_notification_count( $user_id ) {
	return 7;
}
function bp_displayed_user_id() {
	return World::$displayed;
}
function bp_loggedin_user_id() {
	return World::$user;
}
function get_current_user_id() {
	return World::$user;
}
function is_user_logged_in() {
	return World::$user > 0;
}
function current_user_can( $capability ) {
	return in_array( $capability, World::$caps, true );
}
function groups_get_groupmeta( $group_id, $key ) {
	return isset( World::$groups[ $group_id ] ) ? (string) World::$groups[ $group_id ] : '';
}
function bp_messages_get_meta( $message_id, $key, $single ) {
	return isset( World::$meta[ $message_id ][ $key ] ) ? World::$meta[ $message_id ][ $key ] : '';
}
function get_user_meta( $user_id, $key, $single ) {
	return isset( World::$user_meta[ $user_id ][ $key ] ) ? World::$user_meta[ $user_id ][ $key ] : '';
}
function get_userdata( $user_id ) {
	return isset( World::$users[ $user_id ] ) ? World::$users[ $user_id ] : false;
}
function cache_users( $ids ) {
}
function wp_get_session_token() {
	return World::$session;
}
function rest_get_authenticated_app_password() {
	return World::$app_password;
}
function wp_unslash( $text ) {
	return stripslashes( $text );
}
function wp_strip_all_tags( $text ) {
	return trim( strip_tags( preg_replace( '@<(script|style)[^>]*?>.*?</\\1>@si', '', $text ) ) );
}
function wp_cache_delete( $key, $group ) {
}
function bp_notifications_add_notification( $arguments ) {
	World::$notified[] = $arguments;
	return count( World::$notified );
}
function bp_notifications_delete_notifications_by_item_id( ...$arguments ) {
	World::$deleted_notifications[] = $arguments;
}
function bp_update_user_last_activity( $user_id, $time ) {
	World::$activity[ $user_id ] = $time;
}
class BP_Core_User {
	public static function get_last_activity( $ids ) {
		return array(
			2 => array(
				'user_id'       => 2,
				'date_recorded' => '2026-11-22 11:00:38',
			),
			3 => false,
		);
	}
}
function register_rest_route( $space, $route, $arguments ) {
	World::$routes[ $arguments['methods'] . ' ' . $space . $route ] = $arguments;
}
function rest_url( $path ) {
	return 'https://community.example/wp-json/' . $path;
}
function plugin_basename( $file ) {
	return 'buddyline/buddyline.php';
}
function __( $text, $domain ) {
	return $text;
}
function human_time_diff( $from, $to ) {
	return ( $to - $from ) . ' seconds';
}

require_once __DIR__ . '/../../wordpress/buddyline/includes/class-buddyline-plugin.php';
spl_autoload_register( array( 'Buddyline_Plugin', 'load_class' ) );
World::reset();
